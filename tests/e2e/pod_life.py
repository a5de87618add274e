"""Child process: one pod on the provider `netns` with IPv6 alone, initdata in its annotation and a kubelet volume.

The volume changes while the container reads it, through the real relay, forwarder and development agent.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetNS, netns

from peerpods import oci_spec
from peerpods.cli.reacting import run_reactor
from peerpods.demo import proof
from peerpods.demo.story import sandboxes
from peerpods.demo.world import wait_for
from peerpods.protocols import agent_pb2
from peerpods.shim import Agent, Hypervisor, new_id, vm_annotations
from peerpods.ttrpc import StatusError
from tests.e2e.stage import REFERENCE, log_of, staged

POLICY = "package agent_policy # only for the pod's own eyes"
INITDATA = (
    f'algorithm = "sha384"\nversion = "0.1.0"\n\n[data]\n"aa.toml" = "token_configs = 1"\n"policy.rego" = "{POLICY}"\n'
)
SCRIPT = """
ip -o addr show dev eth0 scope global | wc -l
ping -c 1 -w 5 fd99::1 > /dev/null && echo reached
cat /vol/token; echo
while [ "$(cat /vol/token)" = first ]; do sleep 1; done
cat /vol/token; echo; ls -A /vol | sort
exit 9
"""


def add_ipv6_namespace(name: str) -> str:
    """A pod's namespace as a CNI plugin would make it, without IPv4."""
    netns.create(name)
    with IPRoute() as here, NetNS(name) as pod:
        here.link("add", ifname="pod6", kind="veth", peer={"ifname": "eth0", "net_ns_fd": name})
        ours = here.link_lookup(ifname="pod6")[0]
        here.addr("add", index=ours, address="fd99::1", prefixlen=64, IFA_FLAGS=0x02)
        here.link("set", index=ours, state="up")
        theirs = pod.link_lookup(ifname="eth0")[0]
        pod.addr("add", index=theirs, address="fd99::2", prefixlen=64, IFA_FLAGS=0x02)
        pod.link("set", index=theirs, state="up")
        pod.route("add", dst="default", gateway="fd99::1", family=10)
    return f"/run/netns/{name}"


async def copy(agent: Agent, path: str, kind: int, data: bytes = b"", mode: int = 0o644) -> None:
    """One CopyFile as the shim sends it."""
    size = len(data) if kind == stat.S_IFREG else 0
    request = agent_pb2.CopyFileRequest(
        path=path, file_mode=kind | mode, dir_mode=0x800001E8, data=data, file_size=size
    )
    await agent.call("CopyFile", request)


async def write_volume(agent: Agent, volume: str, stamp: str, token: bytes) -> None:
    """One version of a token volume, in the order of the record."""
    await copy(agent, volume, stat.S_IFDIR, mode=0o755)
    await copy(agent, f"{volume}/{stamp}", stat.S_IFDIR, mode=0o755)
    await copy(agent, f"{volume}/{stamp}/token", stat.S_IFREG, token)
    await copy(agent, f"{volume}/..data", stat.S_IFLNK, stamp.encode(), 0o777)
    await copy(agent, f"{volume}/token", stat.S_IFLNK, b"..data/token", 0o777)


async def code_of(work: Any) -> list[Any]:
    """The status of a call that should fail."""
    try:
        await work
    except StatusError as error:
        return [int(error.status.code), error.status.message]
    return [0, ""]


def guest_files() -> dict[str, Any]:
    """What the VM was told, as its forwarder sees it: path to mode and, but for keys, text."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if b"\0forwarder" in entry.read_bytes():
            folder = entry.parent / "root/run/peerpod"
            if (folder / "apf.json").exists():
                found = {}
                for path in sorted(folder.iterdir()):
                    secret = path.name in ("apf.json", "forwarder.state")
                    text = "" if secret or not path.is_file() else path.read_text()
                    found[path.name] = [stat.S_IMODE(path.stat().st_mode), text]
                return found
    return {}


async def live(reactor: Any, socket: str, namespace: str, facts: dict[str, Any]) -> None:
    """The pod's life."""
    sandbox, container = new_id(), new_id()
    notes = vm_annotations("six", "lab")
    notes["io.katacontainers.config.hypervisor.cc_init_data"] = INITDATA
    hypervisor = Hypervisor(reactor=reactor, path=socket)
    path = await hypervisor.create_vm(sandbox, notes, namespace)
    await hypervisor.start_vm(sandbox)
    facts["files"] = guest_files()
    agent = await Agent.connect(reactor, path, sandbox)
    policy = agent_pb2.SetPolicyRequest(policy="package other")
    facts["set_policy"] = await code_of(agent.call("SetPolicy", policy))
    await agent.start_sandbox("six", [])
    volume = f"{oci_spec.SHARED}/{container}-0123456789abcdef-serviceaccount"
    await write_volume(agent, volume, "..2026_11_24_10_00", b"first")
    facts["link_out"] = await code_of(copy(agent, f"{volume}/..data", stat.S_IFLNK, b"../../../../etc", 0o777))
    facts["through_link"] = await code_of(copy(agent, f"{volume}/..data/token", stat.S_IFREG, b"x"))
    wish = oci_spec.ContainerWish(
        container_id=container,
        sandbox_id=sandbox,
        pod="six",
        namespace="lab",
        image=REFERENCE,
        args=("sh", "-c", SCRIPT),
        files=(("/vol", volume),),
    )
    await agent.call("CreateContainer", oci_spec.create_container(wish))
    await agent.start(container)
    heard: list[bytes] = []

    async def update() -> None:
        if b"first" in b"".join(heard) and not facts.get("updated"):
            facts["updated"] = True
            await write_volume(agent, volume, "..2026_11_24_11_00", b"second")

    def on_output(data: bytes) -> None:
        from peerpods.aio import spawn

        heard.append(data)
        spawn(update())

    await agent.read_all("ReadStdout", container, on_output)
    facts["code"] = await agent.wait(container)
    facts["out"] = b"".join(heard).decode()
    await agent.remove(container)
    await agent.destroy()
    await hypervisor.stop_vm(sandbox)
    await agent.close()


def main() -> None:
    """Set up, live, print."""
    facts: dict[str, Any] = {}
    with staged() as stage:
        auth = stage.folder / "auth.json"
        auth.write_text('{"auths": {"lab.local": {"auth": "Ym9iOnRvcHNlY3JldA=="}}}')
        config = Path(stage.config)
        config.write_text(config.read_text() + f'auth-json = "{auth}"\n')
        with stage.node() as node:
            namespace = add_ipv6_namespace("six")
            before = proof.take()
            run_reactor(lambda reactor: live(reactor, node.socket, namespace, facts))
            facts["gone"] = wait_for(lambda: not sandboxes(node), 20)
            facts["left"] = proof.left_over(before, proof.take())
            state = Path(node.state)
            facts["modes"] = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [state, *state.iterdir()]}
            facts["logs"] = log_of(node.adaptor) + log_of(node.relay)
    print(json.dumps(facts))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
