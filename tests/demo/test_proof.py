"""The comparison that proves nothing is left."""

from __future__ import annotations

from peerpods.demo import proof

UNIX = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 18 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 19 /run/b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 20
"""
TCP = """  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000
"""


def test_only_listening_sockets_count():
    assert proof.listening_unix(UNIX) == {"/run/a.sock"}
    assert proof.listening_ports("tcp", TCP) == {"tcp 0100007F:1F90"}


def test_what_is_new_is_named_and_what_was_there_is_not():
    before = proof.Snapshot(links=frozenset({"lo"}), mounts=frozenset({"/"}))
    after = proof.Snapshot(links=frozenset({"lo", "vxlan1"}), mounts=frozenset({"/"}), processes=frozenset({"7 qemu"}))
    assert proof.left_over(before, after) == ["network device vxlan1", "process 7 qemu"]
    assert proof.left_over(after, after) == []


def test_a_snapshot_sees_this_machine():
    assert "lo" in proof.take().links
    assert "/" in proof.take().mounts


def test_on_a_busy_host_only_what_bears_our_names_counts():
    busy = proof.Snapshot(
        links=frozenset({"lo", "veth12", "ppbr0"}), ports=frozenset({"tcp 1"}), sockets=frozenset({"/run/docker.sock"})
    )
    assert proof.ours(busy) == proof.Snapshot(links=frozenset({"ppbr0"}))
