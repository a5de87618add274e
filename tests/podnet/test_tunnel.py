"""Tunnels between real namespaces: worker, pod, VM."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, gatherResults

from peerpods.errors import LocalFailure, Refused
from peerpods.model import PodNetwork, SandboxId, Tunnel
from peerpods.podnet import Worker, netns_exists, nft, setup_guest, tunnel_for
from peerpods.podnet.vni import PROBES
from tests.podnet.harness import Inline, Space, Spaces, wait

pytestmark = pytest.mark.root
ONE = SandboxId("a" * 64)
TWO = SandboxId("b" * 64)


@attrs.define
class Net:
    """A worker with a pod, joined by an underlay to a VM."""

    spaces: Spaces
    worker: Space
    pod: Space
    vm: Space
    api: Worker

    def add_pod(self, name: str, number: int, extra: str = "") -> Space:
        pod = self.spaces.new(name)
        self.worker.ip(f"link add veth{number} type veth peer name eth0 netns {pod.path}")
        self.worker.ip(f"addr add 10.1.{number}.1/24 dev veth{number}")
        self.worker.ip(f"addr add fd01:0:{number}::1/64 dev veth{number} nodad")
        self.worker.ip(f"link set veth{number} up")
        pod.ip("link set eth0 up")
        pod.ip(f"addr add 10.1.{number}.2/24 dev eth0")
        pod.ip(f"addr add fd01:0:{number}::2/64 dev eth0 nodad")
        pod.ip(f"route add default via 10.1.{number}.1")
        pod.ip(f"route add default via fd01:0:{number}::1")
        return pod

    def add_vm(self, name: str, number: int, mtu: int = 1500) -> Space:
        vm = self.spaces.new(name)
        self.worker.ip(f"link add under{number} type veth peer name ens1 netns {vm.path}")
        self.worker.ip(f"addr add 10.9.{number}.1/24 dev under{number}")
        self.worker.ip(f"addr add fd09:0:{number}::1/64 dev under{number} nodad")
        self.worker.ip(f"link set under{number} up mtu {mtu}")
        vm.ip(f"link set ens1 up mtu {mtu}")
        vm.ip(f"addr add 10.9.{number}.2/24 dev ens1")
        vm.ip(f"addr add fd09:0:{number}::2/64 dev ens1 nodad")
        return vm

    def podns(self, name: str = "podns") -> Space:
        return Space(self.spaces.folder / name)

    def inspect(self, pod: Space | None = None, interface: str = "under0") -> PodNetwork:
        return wait(self.api.inspect(str((pod or self.pod).path), host_interface=interface))

    def join(self, network: PodNetwork, tunnel: Tunnel, vm: Space | None = None, podns: str = "podns") -> None:
        wait(self.api.setup_tunnel(tunnel))
        self.guest(network, tunnel, vm, podns)

    def guest(self, network: PodNetwork, tunnel: Tunnel, vm: Space | None = None, podns: str = "podns") -> None:
        path = str(self.spaces.folder / podns)
        facts = {"vni": tunnel.vni, "port": tunnel.port, "tunnel": "vxlan", "namespace_path": path, "timeout": 5}
        (vm or self.vm).do(lambda: setup_guest(network, **facts))

    def tunnel(
        self, network: PodNetwork, sandbox: SandboxId = ONE, remote: str = "10.9.0.2", vni: int = 555000
    ) -> Tunnel:
        return tunnel_for(sandbox, network, str(self.pod.path), remote, vni, 4789)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    spaces = Spaces(tmp_path)
    worker = spaces.new("worker")
    api = Worker(str(worker.path), Inline(), named=str(tmp_path / "named"))
    made = Net(spaces, worker, worker, worker, api)
    try:
        made.pod = made.add_pod("pod", 0)
        made.vm = made.add_vm("vm", 0)
        yield made
    finally:
        api.close()
        spaces.close()


def exchange(server: Space, client: Space, address: str, payload: bytes = b"x" * 100_000) -> str:
    """One TCP connection with data both ways; gives the client's address as the server saw it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = server.do(lambda: socket.socket(family, socket.SOCK_STREAM))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, 0))
    listening.listen(1)
    listening.settimeout(5)
    port = listening.getsockname()[1]
    seen: list[str] = []

    def serve() -> None:
        connection, peer = listening.accept()
        with connection:
            seen.append(peer[0])
            connection.settimeout(5)
            connection.sendall(payload)
            while connection.recv(65536):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    got = 0
    with listening, client.do(lambda: socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.settimeout(5)
        sock.connect((address, port))
        sock.sendall(payload)
        while got < len(payload):
            part = sock.recv(65536)
            assert part
            got += len(part)
        sock.shutdown(socket.SHUT_WR)
        thread.join(5)
    assert not thread.is_alive()
    return seen[0]


def frag_creates(space: Space) -> int:
    lines = [one.split() for one in space.run("cat", "/proc/net/snmp").splitlines() if one.startswith("Ip:")]
    return int(lines[1][lines[0].index("FragCreates")])


@pytest.mark.parametrize("mtu", [1500, 1400, 9000])
def test_traffic_passes_both_ways_in_one_piece(net: Net, mtu: int) -> None:
    vm = net.add_vm("vm1", 1, mtu)
    network = net.inspect(interface="under1")
    assert (network.node_address, network.underlay_mtu) == ("10.9.1.1", mtu)
    tunnel = net.tunnel(network, remote="10.9.1.2")
    net.join(network, tunnel, vm)
    podns = net.podns()
    before = net.pod.counters("vxlan1")
    for gateway, pod_address in (("10.1.0.1", "10.1.0.2"), ("fd01::1", "fd01::2")):
        assert exchange(net.worker, podns, gateway) == pod_address
        assert exchange(podns, net.worker, pod_address) == gateway
    received, sent = net.pod.counters("vxlan1")
    assert received - before[0] > 20 and sent - before[1] > 20
    wanted = min(1500, mtu - 50)
    assert f"mtu {wanted} " in podns.ip("link show eth0")
    assert f"mtu {wanted} " in net.pod.ip("link show eth0")
    assert f"mtu {wanted} " in net.worker.ip("link show veth0")
    assert frag_creates(net.worker) == 0 and frag_creates(vm) == 0


def test_outer_ipv6(net: Net) -> None:
    network = attrs.evolve(net.inspect(), node_address="fd09::1")
    tunnel = net.tunnel(network, remote="fd09::2")
    assert tunnel.mtu == 1430
    net.join(network, tunnel)
    exchange(net.worker, net.podns(), "10.1.0.1")
    exchange(net.podns(), net.worker, "fd01::2")
    assert "mtu 1430 " in net.podns().ip("link show eth0")


def test_second_set_up_and_half_done_ones(net: Net) -> None:
    network = net.inspect()
    tunnel = net.tunnel(network)
    for _ in range(2):
        net.join(network, tunnel)
    net.pod.run("tc", "qdisc", "del", "dev", "eth0", "ingress")
    net.worker.ip("link set veth0 mtu 1500")
    net.pod.ip("link set eth0 mtu 1500")
    net.podns().ip("route flush table main")
    net.join(network, tunnel)
    exchange(net.worker, net.podns(), "10.1.0.1")
    assert len(net.worker.do(nft.elements)) == 1
    net.podns().ip("link del eth0")
    net.pod.ip("link del vxlan1")
    net.join(network, tunnel)
    exchange(net.podns(), net.worker, "fd01::2")


def test_tear_down_leaves_the_pod_as_it_was(net: Net) -> None:
    def state() -> tuple[str, ...]:
        pod = [net.pod.ip(f"{what}") for what in ("addr show dev eth0", "route", "-6 route", "link show")]
        return (
            *pod,
            net.pod.run("tc", "qdisc"),
            net.worker.ip("link show veth0"),
            net.worker.run("nft", "list", "ruleset"),
        )

    before = state()
    tunnel = net.tunnel(net.inspect())
    wait(net.api.teardown_tunnel(tunnel))
    wait(net.api.setup_tunnel(tunnel))
    assert "mtu 1450" in net.pod.ip("link show eth0") and "notrack" in net.worker.run("nft", "list", "ruleset")
    for _ in range(2):
        wait(net.api.teardown_tunnel(tunnel))
        assert state() == before
    assert not [one for one in net.worker.ip("-o link").splitlines() if "vxlan" in one or ": pp" in one]


def test_an_ingress_hook_that_was_there_stays(net: Net) -> None:
    net.pod.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    before = net.pod.run("tc", "qdisc")
    network = net.inspect()
    tunnel = net.tunnel(network)
    net.join(network, tunnel)
    exchange(net.worker, net.podns(), "10.1.0.1")
    wait(net.api.teardown_tunnel(tunnel))
    assert net.pod.run("tc", "qdisc") == before
    assert not net.pod.run("tc", "filter", "show", "dev", "eth0", "ingress").strip()


@pytest.mark.parametrize("stale_file", [False, True])
def test_tear_down_when_the_pod_is_gone(net: Net, stale_file: bool) -> None:
    tunnel = net.tunnel(net.inspect())
    wait(net.api.setup_tunnel(tunnel))
    assert netns_exists(tunnel.netns)
    net.spaces.remove(net.pod)
    if stale_file:
        Path(tunnel.netns).touch()
    assert not netns_exists(tunnel.netns)
    wait(net.api.teardown_tunnel(tunnel))
    assert net.worker.do(nft.elements) == []
    with pytest.raises(Refused, match="no network namespace"):
        wait(net.api.setup_tunnel(tunnel))


def test_set_up_after_a_crash_between_make_and_move(net: Net) -> None:
    from peerpods.podnet.plan import device_name

    network = net.inspect()
    tunnel = net.tunnel(network)
    net.worker.ip(f"link add {device_name(ONE)} type vxlan id {tunnel.vni} remote 10.9.0.2 dstport 4789")
    net.join(network, tunnel)
    exchange(net.worker, net.podns(), "10.1.0.1")
    net.worker.ip(f"link add {device_name(TWO)} type vxlan id 7 remote 10.9.0.2 dstport 4789")
    wait(net.api.teardown_tunnel(attrs.evolve(tunnel, sandbox=TWO)))
    assert device_name(TWO) not in net.worker.ip("link")
    assert net.pod.ip("link show vxlan1")


def test_vni_of_a_device_that_moved_away_is_in_use(net: Net) -> None:
    tunnel = net.tunnel(net.inspect())
    wait(net.api.setup_tunnel(tunnel))
    api = Worker(str(net.worker.path), Inline())
    try:
        assert wait(api.choose_vni({555001}, 555000)) == 555002
        assert wait(api.choose_vni(set(), 555000)) == 555003
        wait(api.inspect(str(net.pod.path), host_interface="under0"))  # done after what follows the answer
    finally:
        api.close()
    assert ": pq" not in net.worker.ip("-o link")
    with pytest.raises(LocalFailure, match="VNI 555000"):
        wait(net.api.setup_tunnel(attrs.evolve(tunnel, sandbox=TWO, netns=str(net.add_pod("pod2", 2).path))))


async def together(coroutines: Iterable[Any]) -> list[Any]:
    return list(await gatherResults([Deferred.fromCoroutine(one) for one in coroutines]))


def first_choice(net: Net) -> int:
    """What a new worker chooses first."""
    api = Worker(str(net.worker.path), Inline())
    try:
        return int(wait(api.choose_vni(set(), 555008)))
    finally:
        api.close()


def test_choices_that_wait_together_differ_and_leave_nothing(net: Net) -> None:
    wait(net.api.setup_tunnel(net.tunnel(net.inspect())))
    net.worker.ip(f"link add pq000000000000 group {PROBES} type vxlan id 9 remote 10.9.0.2 dstport 4789")
    api = Worker(str(net.worker.path), Inline())
    try:
        chosen = wait(together(api.choose_vni({555003}, 555000) for _ in range(100)))
        assert len(set(chosen)) == 100
        assert not {555000, 555003} & set(chosen)
        wait(api.inspect(str(net.pod.path), host_interface="under0"))  # done after what follows the answers
        assert ": pq" not in net.worker.ip("-o link")
    finally:
        api.close()


def test_two_workers_of_one_namespace_choose_from_different_blocks(net: Net) -> None:
    apis = [Worker(str(net.worker.path), Inline()) for _ in range(2)]
    try:
        chosen = [wait(api.choose_vni(set(), 555008)) for api in apis for _ in range(2)]
        assert chosen == [555008, 555009, 555264, 555265]
        apis[0].close()
        assert any(first_choice(net) < 555264 for _ in range(100)), "the block was not let go of"
    finally:
        for api in apis:
            api.close()


def test_a_vni_that_is_only_tried_by_another_is_waited_for(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = net.tunnel(net.inspect())
    net.worker.ip(f"link add pq000000000000 type vxlan id {tunnel.vni} remote 10.9.0.2 dstport 4789")
    trials = ["pq000000000000"]  # the other's trial ends at the first pause; `time.sleep` is everybody's

    def end_trial(_seconds: float) -> None:
        if trials:
            net.worker.ip(f"link del {trials.pop()}")

    monkeypatch.setattr("peerpods.podnet.acting.time.sleep", end_trial)
    wait(net.api.setup_tunnel(tunnel))
    assert net.pod.ip("link show vxlan1")
    assert not trials


def test_two_pods_on_one_underlay(net: Net) -> None:
    other_pod = net.add_pod("pod1", 1)
    other_vm = net.add_vm("vm1", 1)
    network, other = net.inspect(), net.inspect(other_pod, "under1")
    first = net.tunnel(network)
    second = attrs.evolve(net.tunnel(other, TWO, "10.9.1.2", 555001), netns=str(other_pod.path))
    net.join(network, first)
    net.join(other, second, other_vm, "podns1")
    assert exchange(net.podns("podns1"), net.podns(), "10.1.1.2") == "10.1.0.2" if _forwarding(net) else True
    exchange(net.worker, net.podns(), "10.1.0.1")
    exchange(net.worker, net.podns("podns1"), "10.1.1.1")
    wait(net.api.teardown_tunnel(first))
    exchange(net.worker, net.podns("podns1"), "10.1.1.1")
    assert [one.address for one in net.worker.do(nft.elements)] == ["10.9.1.2"]


def _forwarding(net: Net) -> bool:
    net.worker.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    return True


def test_gateway_that_only_neighbours_know(net: Net) -> None:
    pod = net.spaces.new("calico")
    net.worker.ip(f"link add veth7 type veth peer name eth0 netns {pod.path}")
    net.worker.ip("link set veth7 up address ee:ee:ee:ee:ee:ee")
    net.worker.ip("addr add 10.7.0.1/32 dev veth7")
    net.worker.ip("route add 10.7.0.2/32 dev veth7 src 10.7.0.1")
    pod.ip("link set eth0 up")
    pod.ip("addr add 10.7.0.2/32 dev eth0")
    pod.ip("route add 169.254.1.1 dev eth0 scope link")
    pod.ip("route add default via 169.254.1.1 dev eth0 onlink")
    pod.ip("neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent")
    network = net.inspect(pod)
    assert [one.ip for one in network.neighbours] == ["169.254.1.1"]
    tunnel = attrs.evolve(net.tunnel(network), netns=str(pod.path))
    net.join(network, tunnel)
    assert exchange(net.worker, net.podns(), "10.7.0.1") == "10.7.0.2"
    net.join(network, tunnel)
    routes = net.podns().ip("route")
    assert "default via 169.254.1.1 dev eth0" in routes and "onlink" in routes


def test_routes_arrive_with_all_they_say(net: Net) -> None:
    net.pod.ip("route add 10.50.0.0/16 via 10.1.0.9 dev eth0 metric 77 mtu 1300 src 10.1.0.2")
    net.pod.ip("route add default via 10.1.0.8 metric 900")
    net.pod.ip("-6 route add fd50::/16 via fd01::9 metric 55")
    network = net.inspect()
    net.join(network, net.tunnel(network))
    four, six = net.podns().ip("route"), net.podns().ip("-6 route")
    assert "10.50.0.0/16 via 10.1.0.9 dev eth0 src 10.1.0.2 metric 77 mtu 1300" in four
    assert "default via 10.1.0.8 dev eth0 metric 900" in four and "default via 10.1.0.1 dev eth0" in four
    assert "fd50::/16 via fd01::9 dev eth0 metric 55" in six
    assert sorted(four.splitlines()) == sorted(net.pod.ip("route").splitlines())


def test_sweep_removes_what_nobody_keeps(net: Net, tmp_path: Path) -> None:
    tunnel = net.tunnel(net.inspect())
    wait(net.api.setup_tunnel(tunnel))
    assert wait(net.api.sweep([ONE])) == []
    (tmp_path / "named").mkdir()
    (tmp_path / "named/pod").touch()
    import subprocess

    subprocess.run(["mount", "--bind", tunnel.netns, str(tmp_path / "named/pod")], check=True)
    try:
        done = wait(net.api.sweep([TWO]))
    finally:
        subprocess.run(["umount", str(tmp_path / "named/pod")], check=True)
    assert len(done) == 2
    assert "vxlan1" not in net.pod.ip("link") and "mtu 1500" in net.pod.ip("link show eth0")
    assert "mtu 1500" in net.worker.ip("link show veth0")
    assert wait(net.api.sweep([])) == []


def test_errors_say_what_is_wrong(net: Net) -> None:
    with pytest.raises(Refused, match="no network namespace at"):
        wait(net.api.inspect("/nowhere"))
    empty = net.spaces.new("empty")
    with pytest.raises(Refused, match="no interface with an address"):
        net.inspect(empty)
    with pytest.raises(Refused, match="no interface 'nope0'"):
        net.inspect(interface="nope0")
    from peerpods.errors import GuestError

    network = attrs.evolve(net.inspect(), node_address="203.0.113.1")
    with pytest.raises(GuestError, match="no route to the worker's address"):
        net.vm.do(
            lambda: setup_guest(
                network, vni=1, port=4789, tunnel="vxlan", namespace_path=str(net.podns().path), timeout=0.2
            )
        )


def test_a_kernel_without_nftables_still_gets_its_tunnel(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise nft.Unsupported("no nf_tables")

    for name in ("add", "remove", "elements"):
        monkeypatch.setattr(nft, name, missing)
    network = net.inspect()
    tunnel = net.tunnel(network)
    net.join(network, tunnel)
    exchange(net.worker, net.podns(), "10.1.0.1")
    wait(net.api.teardown_tunnel(tunnel))
    assert wait(net.api.sweep([])) == []
    assert "vxlan1" not in net.pod.ip("link")


def test_an_address_used_again_belongs_to_the_newer_sandbox(net: Net) -> None:
    network = net.inspect()
    old = net.tunnel(network)
    wait(net.api.setup_tunnel(old))
    other = net.add_pod("pod2", 2)
    new = attrs.evolve(old, sandbox=TWO, netns=str(other.path), vni=555001)
    wait(net.api.setup_tunnel(new))
    wait(net.api.teardown_tunnel(old))
    assert [one.comment for one in net.worker.do(nft.elements)] == [TWO]
