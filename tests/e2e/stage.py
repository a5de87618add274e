"""What stands inside a box for the provider `netns`: a registry that instances reach, and a configuration."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
from pyroute2 import IPRoute

from peerpods.cli.children import Child
from peerpods.cli.node import Node
from peerpods.demo.registry import Registry, build_busybox_image, start_registry

ADDRESS = "198.18.7.1"
NAME = "lab.local"
IMAGE = "busybox:1"
REFERENCE = f"{NAME}/{IMAGE}"
"""As the recorded guest-pull life has it."""


@attrs.define
class Stage:
    """A registry, and a file that tells the adaptor's VMs of it."""

    folder: Path
    registry: Registry
    config: str

    @contextlib.contextmanager
    def node(self, *flags: str, provider: str = "netns") -> Iterator[Node]:
        """An adaptor and a relay as processes."""
        node = Node.make(provider, self.config if provider == "netns" else "", flags)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def _add_address() -> None:
    """The registry's address, on this namespace's loopback; instances reach it by their default route."""
    with IPRoute() as here:
        here.addr("add", index=here.link_lookup(ifname="lo")[0], address=ADDRESS, prefixlen=32)


def _add_name(folder: Path) -> None:
    """A private /etc/hosts in which the registry has its recorded name; instances inherit the mount."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """Set up; for a box of its own (address, mount and port go with it)."""
    folder = Path("/run/stage")
    folder.mkdir()
    _add_address()
    _add_name(folder)
    registry = start_registry(folder / "registry", ADDRESS, 80)
    try:
        registry.push(build_busybox_image(folder / "image", Path("/bin/busybox")), IMAGE)
        registries = folder / "registries.json"
        registries.write_text(json.dumps({"insecure": [NAME, f"{NAME}:81"], "ca": {}}))
        config = folder / "adaptor.toml"
        config.write_text(f'[guest]\nregistries-json = "{registries}"\n')
        yield Stage(folder, registry, str(config))
    finally:
        registry.stop()


def log_of(child: Child | None) -> str:
    """What a service wrote."""
    return child.log.read_text(errors="replace") if child is not None else ""
