"""Pure parts of the image build: archive, ELF, module order, pause program, trial's arithmetic, wheels' places."""

from __future__ import annotations

import os
import platform
import signal
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

from peerpods.errors import ConfigError
from peerpods.image import cpio, elf, inputs, key, modules, pause, phases, wheels


def read_archive(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int], int]]:
    """A reader of its own: name -> (mode, content, device, mtime)."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        start = at + 110
        name = data[start : start + fields[11] - 1].decode()
        assert data[start + fields[11] - 1] == 0
        begin = (start + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[begin:].strip(b"\0")
            return found
        content = data[begin : begin + fields[6]]
        found[name] = (fields[1], content, (fields[9], fields[10]), fields[5])
        at = (begin + fields[6] + 3) // 4 * 4


def test_archive_has_what_was_given() -> None:
    """Modes, contents, nodes and links come back; parents are added before what is in them."""
    entries = [
        cpio.file("a/b/c", b"text", 0o755),
        cpio.symlink("lib64", "lib"),
        cpio.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    ]
    data = cpio.write(entries, 1234)
    found = read_archive(data)
    assert list(found) == ["a", "a/b", "a/b/c", "dev", "dev/console", "lib64"]
    assert found["a/b/c"] == (stat.S_IFREG | 0o755, b"text", (0, 0), 1234)
    assert found["dev/console"][2] == (5, 1)
    assert found["lib64"][:2] == (stat.S_IFLNK | 0o777, b"lib")
    assert len(data) % 512 == 0
    assert cpio.write(list(reversed(entries)), 1234) == data


@pytest.mark.parametrize("names", [["/a"], [""], ["a", "a"]])
def test_archive_refuses_bad_names(names: list[str]) -> None:
    """Absolute, empty and double names."""
    with pytest.raises(ValueError, match="absolute, empty or there twice"):
        cpio.write([cpio.file(name, b"") for name in names], 0)


def fake_module(info: bytes, order: str = "<") -> bytes:
    """An ELF file with only a .modinfo section and the table of section names."""
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    headers = struct.pack(f"{order}IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    headers += struct.pack(f"{order}IIQQQQIIQQ", 1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    headers += struct.pack(f"{order}IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    magic = elf.MAGIC if order == "<" else elf.MAGIC_BIG
    head = (
        magic + bytes(34) + struct.pack(f"{order}Q", 64 + len(body)) + bytes(10) + struct.pack(f"{order}HHH", 64, 3, 2)
    )
    assert len(head) == 64
    return head + body + headers


@pytest.mark.parametrize("order", ["<", ">"])
def test_module_info(order: str) -> None:
    """Keys that come several times stay lists; dependencies are split."""
    data = fake_module(b"license=GPL\0depends=a,b-c\0alias=x\0alias=y=z\0depends=\0", order)
    assert elf.module_info(data) == {"license": ["GPL"], "depends": ["a", "b-c"], "alias": ["x", "y=z"]}


def test_needed_libraries_of_this_python() -> None:
    """Against ldd's own view of a program that is there."""
    program = Path("/bin/sh").resolve().read_bytes()
    assert "libc.so.6" in elf.needed(program)
    assert elf.needed(pause.program()) == []


INFOS = {
    "virtio_net": {"depends": ["net_failover"], "alias": ["virtio:d00000001v*"]},
    "net_failover": {"depends": ["failover"]},
    "failover": {"depends": []},
    "vxlan": {"depends": ["ip6_udp_tunnel", "udp-tunnel"], "alias": ["rtnl-link-vxlan"]},
    "ip6_udp_tunnel": {},
    "udp_tunnel": {},
    "ext4": {"softdep": ["pre: crc32c extra post: later"], "depends": ["failover"]},
    "crc32c": {},
}


def test_modules_are_loaded_after_what_they_need() -> None:
    """Dependencies first, each once; built-in ones are skipped; `-` is `_`; soft ones come along."""
    order = modules.load_order(["virtio-net", "vxlan", "ext4", "builtin"], INFOS.get)
    assert order == [
        "failover", "net_failover", "virtio_net", "ip6_udp_tunnel", "udp_tunnel", "vxlan", "crc32c", "ext4",
    ]  # fmt: skip


def test_module_circle_is_refused() -> None:
    """A circle of hard dependencies cannot be loaded."""
    with pytest.raises(ConfigError, match="depends on itself"):
        modules.load_order(["a"], {"a": {"depends": ["b"]}, "b": {"depends": ["a"]}}.get)


def test_modprobe_tables() -> None:
    """Nearest dependency first; aliases sorted."""
    table = modules.dependency_table(INFOS)
    assert "virtio_net.ko: net_failover.ko failover.ko\n" in table and "failover.ko:\n" in table
    assert modules.alias_table(INFOS) == "alias rtnl-link-vxlan vxlan\nalias virtio:d00000001v* virtio_net\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86-64")
def test_pause_program_waits_and_ends_by_signal(tmp_path: Path) -> None:
    """It is small, sleeps without using the processor, and SIGTERM ends it."""
    file = tmp_path / "pause"
    file.write_bytes(pause.program())
    file.chmod(0o755)
    assert file.stat().st_size < 200
    process = subprocess.Popen([str(file)])
    try:
        end = time.monotonic() + 10
        state = ""
        while state != "S" and time.monotonic() < end:
            assert process.poll() is None
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "S"
        ignored = next(
            line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigIgn" in line
        )
        assert int(ignored.split()[1], 16) >> (signal.SIGCHLD - 1) & 1, "children would stay as zombies"
    finally:
        process.terminate()
    assert process.wait(10) == -signal.SIGTERM


def test_pause_program_of_an_ibm_z() -> None:
    """Big-endian, static, and its larl leads to the longs that ignore SIGCHLD; PEERPODS_S390X=1 runs it."""
    program = pause.program("s390x")
    assert elf.is_elf(program)
    assert elf.needed(program) == []
    entry, load = (struct.unpack_from(">Q", program, at)[0] for at in (24, 64 + 16))
    at = entry - load + 4
    assert program[at : at + 2] == b"\xc0\x30"
    longs = at + 2 * struct.unpack_from(">i", program, at + 2)[0]
    assert struct.unpack_from(">4Q", program, longs) == (1, 0, 0, 0)
    assert longs % 8 == 0
    assert longs + 32 == len(program)


def test_pause_program_of_an_unknown_machine() -> None:
    """No wrong program for another machine."""
    with pytest.raises(ConfigError, match="no pause program for sparc"):
        pause.program("sparc")


def test_phases_and_shares() -> None:
    """Console lines, with noise around them; create call and firmware come before the guest's own clock."""
    assert phases.parse_line("[    0.1] Linux", 1.0) is None
    assert phases.parse_line("\x1b[0mpeerpods[1.50] phase kernel\r", 2.5) == phases.Phase("kernel", 1.5, 2.5)
    assert phases.parse_line("peerpods[1.50] stopped: no disk", 2.0) == "no disk"
    marks = [phases.Phase("kernel", 1.5, 2.5, 2.0), phases.Phase(phases.LISTENING, 3.0, 4.0, 3.25)]
    rows = phases.rows(marks, 0.5)
    assert [(row.name, row.seconds, row.share, row.cpu) for row in rows] == [
        ("create (libvirt)", 0.5, 0.125, 0.0),
        ("firmware", 0.5, 0.125, 0.0),
        ("kernel", 1.5, 0.375, 2.0),
        (phases.LISTENING, 1.5, 0.375, 1.25),
    ]
    assert phases.table(rows).splitlines()[-1].split() == ["=", "forwarder", "ready", "4.00"]
    assert phases.rows([], 1.0) == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("attr/__init__.py", "attr/__init__.py"),
        ("twisted/test/test_x.py", None),
        ("twisted/conch/ssh.py", None),
        ("google/_upb/_message.abi3.so", "google/_upb/_message.abi3.so"),
        ("x-1.data/purelib/x/y.py", "x/y.py"),
        ("x-1.data/scripts/x", None),
        ("x-1.dist-info/RECORD", None),
        ("x-1.dist-info/METADATA", "x-1.dist-info/METADATA"),
        ("x/y.pyi", None),
    ],
)
def test_where_a_wheels_files_go(name: str, place: str | None) -> None:
    """Tests, stubs and scripts stay behind."""
    assert wheels._place(name) == place


def test_guest_source_is_small_and_whole() -> None:
    """What the VM runs is listed; nothing of the node's own rooms comes along."""
    files = [file.as_posix() for file in key.guest_files()]
    assert {"errors.py", "model.py", "ttrpc/__init__.py", "userdata/reader.py", "obs/log.py"} <= set(files)
    rooms = {file.split("/")[0] for file in files}
    assert not rooms & {"adaptor", "clouds", "relay", "image", "kube", "shim.py", "demo"}
    assert not [file for file in files if file.endswith((".proto", ".pyi", ".pyc"))]


def test_key_follows_the_source(tmp_path: Path) -> None:
    """Another byte in a guest file is another key; the same bytes elsewhere are the same."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1\n")
    one = key.digest_files([Path("a.py")], tmp_path / "one")
    assert one == key.digest_files([Path("a.py")], tmp_path / "two")
    (tmp_path / "two" / "a.py").write_text("x = 2\n")
    assert one != key.digest_files([Path("a.py")], tmp_path / "two")
    assert key.content_key({"kind": "development"}) != key.content_key({"kind": "kata"})


def test_inputs_do_not_contradict() -> None:
    """Nothing is asked for and dropped at once."""
    assert not set(inputs.PACKAGES) & inputs.DROPPED
    assert set(inputs.INITRD_MODULES) <= set(inputs.MODULES)
    assert os.path.isdir(key.SOURCE / "image" / "guest")
