"""The builder's umask does not show in what is made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerpods.image.umask import usual_umask


@pytest.fixture(autouse=True)
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(folder: Path) -> list[int]:
    return sorted(path.stat().st_mode & 0o777 for path in folder.iterdir())


def test_files_of_ours_and_of_programs_get_usual_modes_inside_and_the_umask_is_back_afterwards(tmp_path: Path) -> None:
    @usual_umask()
    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "own").touch()
        subprocess.run(["touch", folder / "theirs"], check=True)
        raise ValueError

    for name in ("one", "two"):  # the decorator serves more than once
        with pytest.raises(ValueError):
            build(tmp_path / name)
        assert modes(tmp_path / name) == [0o644, 0o644]
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o755
    (tmp_path / "after").touch()
    assert (tmp_path / "after").stat().st_mode & 0o777 == 0o600
