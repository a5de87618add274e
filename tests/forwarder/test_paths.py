"""CopyFile's paths: kubelet's volumes pass, every way out of the folder does not."""

import posixpath
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import Refused
from peerpods.forwarder import paths
from peerpods.forwarder.paths import SHARED, Denied, SharedFolder, TooMuch, check_link, may_be_made, split

REG, DIR, LNK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


def copy(folder, path, mode=REG, data=b"", size=None, offset=0):
    path = path if path.startswith("/") else f"{SHARED}/{path}"
    found = folder.check(path, mode, data, len(data) if size is None and stat.S_ISREG(mode) else size or 0, offset)
    return found, folder.passed(found)


def test_a_kubelet_volume_and_its_update_pass():
    folder = SharedFolder()
    for stamp, token in (("..2024_01", b"one"), ("..2024_02", b"two")):
        copy(folder, "c-1-sa", DIR)
        copy(folder, f"c-1-sa/{stamp}", DIR)
        copy(folder, f"c-1-sa/{stamp}/token", REG, token)
        copy(folder, "c-1-sa/..data", LNK, stamp.encode())
        copy(folder, "c-1-sa/token", LNK, b"..data/token")
    assert folder.kinds["c-1-sa/..data"] == stat.S_IFLNK
    assert folder.kinds["c-1-sa/..2024_02/token"] == stat.S_IFREG


@pytest.mark.parametrize(
    "path",
    [
        SHARED,
        f"{SHARED}/",
        f"{SHARED}/..",
        f"{SHARED}/../x",
        f"{SHARED}/a/../b",
        f"{SHARED}/a/./b",
        f"{SHARED}/a//b",
        f"{SHARED}/a/",
        f"{SHARED}-other/a",
        f"{SHARED}/a\0b",
        f"{SHARED}/{'x' * 256}",
        f"{SHARED}/{'x/' * 65}x",
        f"{SHARED}/{'é' * 128}",
        "/etc/passwd",
        "/run/kata-containers/shared/containers/../../agent.sock",
        "run/kata-containers/shared/containers/a",
        "",
    ],
)
@pytest.mark.parametrize("mode", [REG, DIR, LNK])
def test_other_paths_are_denied(path, mode):
    with pytest.raises(Denied, match="not plainly below"):
        SharedFolder().check(path, mode, b"", 0, 0)


@pytest.mark.parametrize(
    "kind", [stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, 0, stat.S_IFREG | stat.S_IFCHR | stat.S_IFDIR]
)
def test_devices_and_other_kinds_are_denied(kind):
    with pytest.raises(Denied, match="neither file, folder nor link"):
        copy(SharedFolder(), "a", kind | 0o644)


@pytest.mark.parametrize(
    "target", ["b", "..data", "d/e/f", "../x", "../../x/y", "../y/", "..2024/key", "...", "..a/.b"]
)
def test_inner_links_pass(target):
    copy(SharedFolder(), "v/w/link", LNK, target.encode())


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "/etc/passwd",
        SHARED,
        "..",
        "../..",
        ".",
        "./a",
        "a/../b",
        "a//b",
        "../../../x",
        "../../../../etc/passwd",
        "a/../../../../etc",
        "a\0b",
        "../",
        "x" * 256,
        "a/" * 2100,
    ],
)
def test_links_that_lead_out_or_are_not_plain_are_denied(target):
    with pytest.raises(Denied, match="link"):
        copy(SharedFolder(), "v/w/link", LNK, target.encode())


def test_a_link_to_text_that_is_no_text_is_denied():
    with pytest.raises(Denied, match="UTF-8"):
        copy(SharedFolder(), "l", LNK, b"\xff")


names = st.sampled_from(["a", "b", "..data", "..", ".", "", "c"])


@given(
    st.lists(st.tuples(st.lists(names, min_size=1, max_size=4), st.lists(names, min_size=1, max_size=5)), max_size=12),
    st.lists(names, min_size=1, max_size=4),
)
def test_no_set_of_links_that_pass_leads_out(links, walk):
    """Play the kernel over the links that passed: wherever a walk goes, it stays below the shared folder."""
    folder = SharedFolder()
    made = {}
    for place, target in links:
        path, text = f"{SHARED}/" + "/".join(place), "/".join(target)
        try:
            folder.passed(folder.check(path, LNK, text.encode(), 0, 0))
        except Refused:
            continue
        made[path] = text

    def resolve(path, hops=0):
        at = SHARED
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                at = posixpath.dirname(at)
            else:
                at = f"{at}/{name}"
                if at in made and hops < 40:
                    base = posixpath.dirname(at)[len(SHARED) + 1 :]
                    at = resolve(f"{base}/{made[at]}", hops + 1)
            assert at == SHARED or at.startswith(SHARED + "/")
        return at

    # A walk by a container may use any name, but not climb by itself: its mount is the root of its view.
    resolve("/".join(name for name in walk if name != ".."))


def test_nothing_goes_through_a_link_or_a_file():
    folder = SharedFolder()
    copy(folder, "v/link", LNK, b"dir")
    copy(folder, "v/file", REG, b"x")
    for place in ("v/link/a", "v/file/a", "v/link/a/b"):
        for mode in (REG, DIR, LNK):
            with pytest.raises(Denied, match="through"):
                copy(folder, place, mode, b"" if mode == DIR else b"t")


def test_kinds_are_not_swapped():
    folder = SharedFolder()
    copy(folder, "v/d/f", REG)
    copy(folder, "v/l", LNK, b"d")
    with pytest.raises(Denied, match="another kind"):
        copy(folder, "v/d", LNK, b"f")
    with pytest.raises(Denied, match="another kind"):
        copy(folder, "v/l", DIR)
    with pytest.raises(Denied, match="another kind"):
        copy(folder, "v", REG)
    copy(folder, "v/l", REG, b"a file instead of the link")
    copy(folder, "v/d/f", LNK, b"g")


def test_the_agents_temporary_name_is_no_way_around():
    folder = SharedFolder()
    copy(folder, "v/f.tmp", LNK, b"other")
    with pytest.raises(Denied, match="temporary"):
        copy(folder, "v/f", REG, b"x")


@pytest.mark.parametrize(
    ("mode", "data", "size", "offset"),
    [
        (REG, b"abc", 2, 0),
        (REG, b"abc", 3, 1),
        (REG, b"", -1, 0),
        (REG, b"", 5, -1),
        (REG, b"", paths.MAX_FILE + 1, 0),
        (DIR, b"x", 0, 0),
        (DIR, b"", 0, 4),
        (LNK, b"x", 0, 1),
    ],
)
def test_impossible_sizes_are_denied(mode, data, size, offset):
    with pytest.raises(Denied, match="sizes"):
        SharedFolder().check(f"{SHARED}/a", mode, data, size, offset)


def test_a_file_in_pieces_passes():
    folder = SharedFolder()
    for offset in (0, 4, 8):
        copy(folder, "big", REG, b"1234", 12, offset)
    assert folder.total == 12


def test_total_bytes_are_bounded(monkeypatch):
    monkeypatch.setattr(paths, "MAX_TOTAL", 10)
    folder = SharedFolder()
    copy(folder, "a", REG, b"123456")
    with pytest.raises(TooMuch, match="bytes"):
        copy(folder, "b", REG, b"12345")
    copy(folder, "b", REG, b"1234")


def test_the_number_of_files_is_bounded(monkeypatch):
    monkeypatch.setattr(paths, "MAX_ENTRIES", 3)
    folder = SharedFolder()
    copy(folder, "a/b/c", REG)
    with pytest.raises(TooMuch, match="files"):
        copy(folder, "d", DIR)
    copy(folder, "a/b/c", REG)


def test_what_the_agent_did_not_make_is_taken_back():
    folder = SharedFolder()
    found, before = copy(folder, "a/b", REG, b"123")
    folder.failed(found, before)
    assert (folder.kinds, folder.total) == ({}, 0)
    found, before = copy(folder, "a/l", LNK, b"x")
    folder.failed(found, before)
    assert folder.kinds["a/l"] == stat.S_IFLNK, "a link may be there although the agent reported an error"


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("/var/lib/kubelet/pods/uid/volumes/x", True),
        (f"{SHARED}/sandbox/rootfs/local/v", True),
        ("/var/lib/kubelet/pods", False),
        ("/var/lib/kubelet/pods/../plugins/x", False),
        ("/var/lib/kubelet/plugins/x", False),
        ("/etc", False),
        ("proc", False),
        ("/run/kata-containers/sandbox/shm", False),
    ],
)
def test_which_bind_sources_may_be_made(source, made):
    assert (may_be_made(source) is not None) is made


def test_helpers_agree():
    assert split("/a/b/c", "/a") == ("b", "c")
    assert check_link(("a", "b"), "../c") is None


def test_a_volume_that_rotates_for_years_never_uses_up_the_entries():
    folder = SharedFolder()
    volume = "c-0011223344556677-token"
    for version in range(paths.MAX_ENTRIES // 4):
        copy(folder, f"{volume}/..v{version}", stat.S_IFDIR | 0o755)
        copy(folder, f"{volume}/..v{version}/token", stat.S_IFREG | 0o644)
        copy(folder, f"{volume}/..data", LNK, f"..v{version}".encode())
        copy(folder, f"{volume}/token", LNK, b"..data/token")
    assert len(folder.kinds) < 10
    with pytest.raises(Denied):
        copy(folder, f"{volume}/..data/token", stat.S_IFREG | 0o644)
