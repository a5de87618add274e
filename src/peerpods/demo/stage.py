"""Sets the demo's stage: namespaces, server, registry with a tiny image, private libvirt, relay and adaptor."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from peerpods.cli.node import Node
from peerpods.demo import world
from peerpods.demo.checks import Teller
from peerpods.demo.private_libvirt import Plan, PrivateLibvirt
from peerpods.demo.registry import build_busybox_image, start_registry

NODE_V4 = "192.168.150.1"
BRIDGE = "ppbr0"
REGISTRY_PORT = 5000
IMAGE = "demo/busybox:1"


@attrs.define(kw_only=True)
class Stage:
    """What stands ready."""

    node: Node
    image: str
    domains: Callable[[], list[str]]
    """Names of the libvirt domains there are."""
    volumes: Callable[[], list[str]]
    """Names of the volumes in the pool."""


def adaptor_config(uri: str, image_dir: str, registries: Path) -> str:
    """The adaptor's TOML file."""
    tables = {
        "adaptor": {"host-interface": BRIDGE},
        "guest": {"registries-json": str(registries)},
        "provider.libvirt": {"uri": uri, "image-dir": image_dir},
    }
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def make_stage(
    cleanup: ExitStack, folder: Path, tell: Teller, *, image_dir: str, places: list[world.PodPlace]
) -> Stage:
    """Set everything up; `cleanup` gets what takes it down again, in order."""
    tell.head("setting the stage, in namespaces of its own")
    libvirt = PrivateLibvirt(folder / "libvirt", Plan(bridge=BRIDGE, ipv4=f"{NODE_V4}/24"), isolated=True)
    cleanup.callback(libvirt.stop)
    libvirt.start()
    tell.held(f"a private libvirt, its bridge {BRIDGE} is the node's network")
    cleanup.callback(world.remove_namespaces, places)
    world.make_gateway()
    for place in places:
        world.make_pod(place)
    server = world.start_server(folder)
    cleanup.callback(server.stop)
    tell.held("two pod namespaces, and a web server behind their gateway")
    registry = start_registry(folder / "registry", NODE_V4, REGISTRY_PORT)
    cleanup.callback(registry.stop)
    registry.push(build_busybox_image(folder / "busybox", Path("/bin/busybox")), IMAGE)
    tell.held(f"a private registry with the image {IMAGE}")
    address = f"{NODE_V4}:{REGISTRY_PORT}"
    registries = folder / "registries.json"
    registries.write_text(json.dumps({"insecure": [address], "ca": {}}))
    config = folder / "adaptor.toml"
    config.write_text(adaptor_config(libvirt.uri, image_dir, registries))
    node = Node.make("libvirt", str(config))
    cleanup.callback(node.stop)
    node.start()
    assert node.relay is not None
    assert node.adaptor is not None
    tell.held(f"twistd relay (pid {node.relay.process.pid}) and twistd adaptor (pid {node.adaptor.process.pid})")

    def domains() -> list[str]:
        with libvirt.connection() as connection:
            return [domain.name() for domain in connection.listAllDomains()]

    def volumes() -> list[str]:
        return sorted(path.name for path in libvirt.pool_path.glob("*"))

    return Stage(node=node, image=f"{address}/{IMAGE}", domains=domains, volumes=volumes)
