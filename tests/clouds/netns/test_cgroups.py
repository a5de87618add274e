"""Empty groups of dead containers go, all others stay."""

from __future__ import annotations

from peerpods.clouds.netns.cgroups import remove_empty


def test_only_our_empty_groups_are_removed(tmp_path):
    for name in ("peerpods-v2", "memory/peerpods-a", "cpu/peerpods-a", "memory/other", "memory/peerpods-live/inside"):
        (tmp_path / name).mkdir(parents=True)
    remove_empty(tmp_path)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == ["cpu", "memory", "memory/other", "memory/peerpods-live", "memory/peerpods-live/inside"]
