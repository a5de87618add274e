"""What the cache keeps."""

from __future__ import annotations

import os

from peerpods.image import prune

NOW = 10 * 86400.0


def name(number: int) -> str:
    return f"image-{number:016x}"


def test_the_newest_stay_whatever_their_age():
    entries = [(name(number), float(number)) for number in range(5)]
    assert prune.stale(entries, NOW) == [name(0), name(1)]


def test_what_was_used_today_stays():
    entries = [(name(number), NOW - 10 - number) for number in range(9)]
    assert prune.stale(entries, NOW) == []


def test_images_and_base_layers_count_apart_and_strangers_are_left_alone():
    entries = [(f"image-base-{number:016x}", 0.0) for number in range(4)] + [("image-apt", 0.0), ("venv-1", 0.0)]
    assert prune.stale(entries, NOW) == [f"image-base-{0:016x}"]


def test_stale_folders_go(tmp_path):
    for number in range(5):
        folder = tmp_path / name(number)
        folder.mkdir()
        os.utime(folder, (number, number))
    assert prune.prune(tmp_path, NOW) == [name(0), name(1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name(2), name(3), name(4)]
