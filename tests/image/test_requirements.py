"""The pinned Python packages: each is there because something asks for it, so that `make lock` changes nothing."""

from __future__ import annotations

import re

import pytest

from peerpods.image import key

FOLDER = key.REQUIREMENTS.parent


@pytest.mark.parametrize("name", ["run", "guest", "dev"])
def test_every_pin_is_asked_for_by_a_list_or_by_another_pin(name: str) -> None:
    blocks = re.split(r"^(?=[a-z0-9])", (FOLDER / f"{name}.txt").read_text(), flags=re.M)[1:]
    pinned = {block.partition("==")[0] for block in blocks}
    assert len(pinned) > 5
    for block in blocks:
        asking = re.findall(r"^    # +(?:via )?(?:-r )?([A-Za-z0-9_.-]+)", block.replace("# via\n", ""), flags=re.M)
        assert asking, block
        assert [one for one in asking if one not in pinned and not (FOLDER / one).is_file()] == [], block
