"""A kubelet volume and its update, through the guard and the development agent, onto a real disk."""

import os
import stat

import pytest

from peerpods.agent.copyfile import copy_file
from peerpods.forwarder import effects
from peerpods.forwarder.guard import Pass
from peerpods.forwarder.paths import SHARED
from peerpods.protocols import agent_pb2
from peerpods.ttrpc import Code
from tests.forwarder.test_guard import AGENT, ready, refused

VOLUME = "0123-abcd-serviceaccount"


class Disk:
    def __init__(self, root):
        self.root = root
        self.guard = ready()
        self.base = root / SHARED.lstrip("/")

    def copy(self, path, kind, data=b"", mode=0o644):
        size = len(data) if kind == stat.S_IFREG else 0
        request = agent_pb2.CopyFileRequest(
            path=f"{SHARED}/{path}", file_mode=kind | mode, dir_mode=0x800001E8, data=data, file_size=size
        )
        verdict = self.guard.check(AGENT, "CopyFile", request.SerializeToString())
        if not isinstance(verdict, Pass):
            return verdict
        assert effects.on_real_folders(verdict.copy, str(self.root))
        request.path = f"{self.base}/{path}"
        request.uid, request.gid = os.getuid(), os.getgid()
        copy_file(request, str(self.base))
        verdict.settle(True)
        return verdict

    def write(self, stamp, token):
        """What the shim sends for one version of the volume, in its order."""
        self.copy(VOLUME, stat.S_IFDIR, mode=0o755)
        self.copy(f"{VOLUME}/{stamp}", stat.S_IFDIR, mode=0o755)
        self.copy(f"{VOLUME}/{stamp}/token", stat.S_IFREG, token)
        self.copy(f"{VOLUME}/..data", stat.S_IFLNK, stamp.encode(), 0o777)
        self.copy(f"{VOLUME}/token", stat.S_IFLNK, b"..data/token", 0o777)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def test_the_pod_reads_the_token_and_then_the_new_one(disk):
    disk.write("..2026_11_24_10_00", b"first")
    token = disk.base / VOLUME / "token"
    assert token.read_bytes() == b"first"
    disk.write("..2026_11_24_11_00", b"second")
    assert token.read_bytes() == b"second"
    assert os.readlink(disk.base / VOLUME / "..data") == "..2026_11_24_11_00"


def test_a_link_out_is_refused_and_not_on_the_disk(disk):
    disk.write("..1", b"x")
    for target in (b"/etc", b"../../etc", b"..1/../../../etc"):
        verdict = disk.copy(f"{VOLUME}/..data", stat.S_IFLNK, target, 0o777)
        assert refused(verdict, Code.PERMISSION_DENIED, "link")
    assert os.readlink(disk.base / VOLUME / "..data") == "..1"
    assert refused(disk.copy(f"{VOLUME}/..data/token", stat.S_IFREG, b"y"), Code.PERMISSION_DENIED)
