"""CopyFile's rules, on a scratch folder."""

from __future__ import annotations

import os
import stat

import pytest

from peerpods.agent.copyfile import copy_file, relative_names
from peerpods.errors import Refused
from peerpods.protocols import agent_pb2 as pb
from tests.agent.world import recorded

DIR_MODE = 0x800001E8  # Go's ModeDir | 0750


@pytest.fixture
def base(tmp_path):
    return str(tmp_path / "shared")


def request(base, name, data=b"", *, mode=0o100644, **more):
    more.setdefault("file_size", len(data))
    more.setdefault("uid", os.getuid())
    more.setdefault("gid", os.getgid())
    return pb.CopyFileRequest(path=f"{base}/{name}", data=data, file_mode=mode, dir_mode=DIR_MODE, **more)


def test_a_file_appears_when_it_is_whole(base, tmp_path):
    data = os.urandom(2_500_000)
    target = tmp_path / "shared/c/sub/file"
    for start in range(0, len(data), 1 << 20):
        assert not target.exists()
        copy_file(request(base, "c/sub/file", data[start : start + (1 << 20)], file_size=len(data), offset=start), base)
    assert target.read_bytes() == data
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o750
    assert os.listdir(target.parent) == ["file"]


def test_empty_file_folder_and_again(base, tmp_path):
    for _ in range(2):
        copy_file(request(base, "d", mode=0o41777), base)
        copy_file(request(base, "d/empty", mode=0o100600), base)
    assert stat.S_IMODE((tmp_path / "shared/d").stat().st_mode) == 0o1777
    assert (tmp_path / "shared/d/empty").read_bytes() == b""


def test_links_of_a_kubelet_volume_and_their_update(base, tmp_path):
    for generation in ("..2026_1", "..2026_2"):
        copy_file(request(base, f"v/{generation}/key", generation.encode()), base)
        copy_file(request(base, "v/..data", generation.encode(), mode=0o120777), base)
        copy_file(request(base, "v/key", b"..data/key", mode=0o120777), base)
        assert (tmp_path / "shared/v/key").read_text() == generation
    assert sorted(os.listdir(tmp_path / "shared/v")) == ["..2026_1", "..2026_2", "..data", "key"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "", ".", "a/.", "x" * 256, "a\0b"])
def test_paths_that_are_refused(base, name):
    with pytest.raises(Refused):
        copy_file(request(base, name), base)


@pytest.mark.parametrize("path", ["/etc/passwd", "/run/kata-containers/shared/containers", "relative", ""])
def test_paths_outside(path):
    with pytest.raises(Refused, match="outside"):
        relative_names(path)


def test_no_link_is_followed(base, tmp_path):
    (tmp_path / "outside").mkdir()
    copy_file(request(base, "c/link", str(tmp_path / "outside").encode(), mode=0o120777), base)
    with pytest.raises(OSError):
        copy_file(request(base, "c/link/file", b"x"), base)
    with pytest.raises(OSError):
        copy_file(request(base, "c/link", mode=0o40755), base)
    (tmp_path / "shared/c/f.tmp").symlink_to(tmp_path / "outside/planted")
    with pytest.raises(OSError):
        copy_file(request(base, "c/f", b"x"), base)
    assert not os.listdir(tmp_path / "outside")
    copy_file(request(base, "c/link", b"plain"), base)  # a file takes the link's place
    assert (tmp_path / "shared/c/link").read_bytes() == b"plain"
    assert not (tmp_path / "shared/c/link").is_symlink()


@pytest.mark.parametrize(
    "more",
    [{"offset": 5, "file_size": 10}, {"file_size": 2}, {"offset": -1}, {"file_size": -3}],
    ids=["gap", "too much", "before the start", "negative size"],
)
def test_pieces_that_do_not_fit(base, more):
    with pytest.raises(Refused):
        copy_file(request(base, "c/f", b"abc", **more), base)


@pytest.mark.parametrize("mode", [0o060600, 0o020600, 0o010600, 0o140600, 0])
def test_other_types(base, mode):
    with pytest.raises(Refused, match="only files"):
        copy_file(request(base, "c/f", mode=mode), base)


def test_a_whole_file_in_one_request_as_the_rust_runtime_sends_it(base, tmp_path):
    wanted = request(base, "deep/er/f", b"y" * 3_000_000)
    wanted.dir_mode = 0
    copy_file(wanted, base)
    assert (tmp_path / "shared/deep/er/f").stat().st_size == 3_000_000


def test_recorded_requests(base, tmp_path):
    seen = 0
    for name in ("shim-guest-pull.jsonl", "shim-normal-life.jsonl"):
        for _, method, payload in recorded(name):
            if method == "CopyFile":
                wanted = pb.CopyFileRequest.FromString(payload)
                wanted.path = wanted.path.replace("/run/kata-containers/shared/containers", base)
                wanted.uid, wanted.gid = os.getuid(), os.getgid()
                copy_file(wanted, base)
                target = tmp_path / wanted.path[len(str(tmp_path)) + 1 :]
                assert target.is_dir() if stat.S_ISDIR(wanted.file_mode) else target.read_bytes() == wanted.data
                seen += 1
    assert seen == 12
