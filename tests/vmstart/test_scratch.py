"""Which disk may be overwritten: only one that says so, and that is empty."""

from __future__ import annotations

import pytest

from peerpods.errors import GuestError
from peerpods.vmstart import scratch


def test_only_a_disk_that_says_so_is_taken() -> None:
    assert scratch.choose({"/dev/vda": "", "/dev/vdb": "peerpods-scratch\n"}) == "/dev/vdb"
    assert scratch.choose({"/dev/vda": "data", "/dev/vdb": "peerpods-scratch-2"}) is None
    assert scratch.choose({}) is None


def test_two_such_disks_are_refused() -> None:
    with pytest.raises(GuestError, match=r"two disks have the serial peerpods-scratch: /dev/vdb, /dev/vdc"):
        scratch.choose({"/dev/vdc": scratch.SERIAL, "/dev/vdb": scratch.SERIAL})


def test_a_disk_with_anything_on_it_is_not_empty() -> None:
    assert scratch.is_empty([bytes(4096), bytes(4096)])
    assert not scratch.is_empty([bytes(4096), bytes(4095) + b"\1"])


def test_the_key_is_never_on_the_command_line_and_changes_are_noticed() -> None:
    command = scratch.format_command("/dev/vdb", "/run/key")
    assert command[-1] == "/dev/vdb" and "--key-file" in command
    assert command[command.index("--integrity") + 1] == "hmac-sha256"
