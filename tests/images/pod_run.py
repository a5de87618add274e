"""Child process of test_pod: the spine's pod in a VM of the prod-test image, made by the provider libvirt with a vTPM.

`python -m tests.images.pod_run IMAGE TREE`, in a box of its own. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peerpods.cli.node import Node
from peerpods.demo import proof, world
from peerpods.demo.private_libvirt import Plan, PrivateLibvirt
from peerpods.demo.registry import build_busybox_image, start_registry
from peerpods.demo.stage import BRIDGE, NODE_V4, REGISTRY_PORT
from peerpods.demo.story import HELLO, run_words, sandboxes
from tests.images.built import Machine
from tests.images.vmbox import MEASURED

IMAGE = "lab/busybox:1"
SCRIPT = f"uname -n; cat; wget -qO- http://{world.SERVER_V4}:{world.SERVER_PORT}/; exit 7"
SECONDS = 600
SETUP = """#!/bin/sh
# A chip without certificates of its maker: swtpm itself makes the state at its first start.
case "$*" in
*--print-capabilities*) echo '{ "type": "swtpm_setup", "features": [ "tpm-2.0" ], "version": "0.7.1" }' ;;
esac
"""


def add_swtpm(folder: Path, tree: Path) -> None:
    """The machine's swtpm where the daemon looks for it."""
    folder.mkdir()
    programs = {"swtpm_setup": SETUP}
    for name in ("swtpm", "swtpm_ioctl"):
        programs[name] = f'#!/bin/sh\nexec {" ".join(Machine(tree).swtpm(name))} "$@"\n'
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    Path("/var/log/swtpm").mkdir(exist_ok=True)


def adaptor_config(folder: Path, uri: str, tree: Path) -> Path:
    """The adaptor's file: boot from disk, by UEFI, with a vTPM."""
    registries = folder / "registries.json"
    registries.write_text(json.dumps({"insecure": [f"{NODE_V4}:{REGISTRY_PORT}"], "ca": {}}))
    tables: dict[str, dict[str, Any]] = {
        "adaptor": {"host-interface": BRIDGE, "start-timeout": SECONDS},
        "guest": {"registries-json": str(registries)},
        "provider.libvirt": {
            "uri": uri, "vol-name": "podvm.raw", "firmware": str(Machine(tree).plain), "vtpm": "on", "memory": 1024,
            "root-disk-size": 1, "accel": "tcg",
        },
    }  # fmt: skip
    config = folder / "adaptor.toml"
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    config.write_text("\n".join(lines) + "\n")
    return config


def live(cleanup: ExitStack, folder: Path, image: Path, tree: Path, facts: dict[str, Any]) -> None:
    """The pod's life, as `peerpods run` shows it."""
    add_swtpm(folder / "bin", tree)
    libvirt = PrivateLibvirt(folder / "libvirt", Plan(bridge=BRIDGE, ipv4=f"{NODE_V4}/24"), isolated=True)
    cleanup.callback(libvirt.stop)
    libvirt.start()
    subprocess.run(["cp", "--sparse=always", image / "podvm.raw", libvirt.pool_path / "podvm.raw"], check=True)
    cleanup.callback(world.remove_namespaces, [HELLO])
    world.make_gateway()
    world.make_pod(HELLO)
    cleanup.callback(world.start_server(folder).stop)
    registry = start_registry(folder / "registry", NODE_V4, REGISTRY_PORT)
    cleanup.callback(registry.stop)
    registry.push(build_busybox_image(folder / "busybox", Path("/bin/busybox")), IMAGE)
    node = Node.make("libvirt", str(adaptor_config(folder, libvirt.uri, tree)))
    cleanup.callback(node.stop)
    node.start()
    before = proof.take()
    console = folder / "console"
    words = run_words(node, HELLO, f"{NODE_V4}:{REGISTRY_PORT}/{IMAGE}", "-i", "--", "sh", "-c", SCRIPT)
    run = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    follow = subprocess.Popen(
        ["sh", "-c", f"while :; do cat {libvirt.pool_path}/*-console.log >{console}.new 2>/dev/null"
         f" && mv {console}.new {console}; sleep 2; done"]
    )  # fmt: skip
    try:
        facts["out"], facts["err"] = run.communicate("fed\n", timeout=SECONDS)
    finally:
        follow.kill()
        follow.wait()
        run.kill()
    facts["code"] = run.returncode
    facts["console"] = console.read_text(errors="replace") if console.exists() else ""
    facts["measured"] = {pcr or name: value for pcr, name, value in MEASURED.findall(facts["console"])}
    facts["gone"] = world.wait_for(lambda: not sandboxes(node), 30)
    facts["left"] = proof.left_over(before, proof.take())
    facts["volumes"] = sorted(path.name for path in libvirt.pool_path.glob("*"))
    facts["chips"] = [str(path) for path in (folder / "libvirt/lib/swtpm").glob("*")]
    if facts["code"] != 7 and node.adaptor is not None:
        facts["log"] = node.adaptor.log.read_text(errors="replace")[-3000:]


def main() -> None:
    """Set up, live, print."""
    facts: dict[str, Any] = {}
    folder = Path("/run/pod-run")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/log"], check=True)
    with ExitStack() as cleanup:
        live(cleanup, folder, Path(sys.argv[1]), Path(sys.argv[2]), facts)
    shutil.rmtree(folder)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
