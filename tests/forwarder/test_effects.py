"""What the forwarder does to files: folders only, no link followed."""

import os
import stat

import pytest

from peerpods.forwarder.effects import make_folders, on_real_folders


def test_missing_folders_are_made_plain(tmp_path):
    old = os.umask(0o077)
    try:
        make_folders("/var/lib/kubelet/pods/u/v", str(tmp_path))
        make_folders("/var/lib/kubelet/pods/u/v", str(tmp_path))
    finally:
        os.umask(old)
    for part in ("var", "var/lib/kubelet", "var/lib/kubelet/pods/u/v"):
        assert stat.S_IMODE((tmp_path / part).stat().st_mode) == 0o755


def test_folders_that_are_there_keep_their_mode(tmp_path):
    (tmp_path / "a").mkdir(mode=0o700)
    make_folders("/a/b", str(tmp_path))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "f").write_text("x")
    make_folders("/f", str(tmp_path))
    make_folders("/f/g", str(tmp_path))
    assert (tmp_path / "f").read_text() == "x"


@pytest.mark.parametrize("target", ["outside", "/nowhere", "link"])
def test_no_link_is_followed(tmp_path, target):
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link").symlink_to(tmp_path / target if target == "outside" else target)
    make_folders("/inside/link/x/y", str(tmp_path))
    make_folders("/inside/link", str(tmp_path))
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_unwritable_place_is_no_crash(tmp_path):
    make_folders("/a", str(tmp_path / "nowhere"))
    make_folders("/self/fd/x/y", "/proc")


def test_a_path_is_on_real_folders_or_not(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("b")
    (tmp_path / "a/file").write_text("")
    root = str(tmp_path)
    assert on_real_folders("/a/b/new", root)
    assert on_real_folders("/a/new/newer/newest", root)
    assert on_real_folders("/a/link", root), "the last name may be a link: the agent replaces it"
    assert not on_real_folders("/a/link/x", root)
    assert not on_real_folders("/a/file/x", root)
    assert not on_real_folders("/a", str(tmp_path / "nowhere"))


def test_no_descriptor_is_left(tmp_path):
    (tmp_path / "link").symlink_to("x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        make_folders("/a/b/c", str(tmp_path))
        make_folders("/link/c", str(tmp_path))
        on_real_folders("/a/b/c/d", str(tmp_path))
        on_real_folders("/link/d", str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
