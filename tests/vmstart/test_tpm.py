"""TPM commands as the TCG's tables have them, and answers of every kind."""

from __future__ import annotations

import struct

import pytest

from peerpods.errors import GuestError
from peerpods.vmstart import tpm


def test_pcr_extend_is_laid_out_as_the_library_says() -> None:
    command = tpm.extend_command(8, {"sha256": b"\1" * 32})
    assert (
        command
        == bytes.fromhex(
            "8002" + "00000041" + "00000182" + "00000008" + "00000009" + "400000090000000000" + "00000001" + "000b"
        )
        + b"\1" * 32
    )
    assert struct.unpack_from(">I", command, 2)[0] == len(command)


def test_pcr_read_selects_one_register() -> None:
    assert tpm.read_command(11, "sha256") == bytes.fromhex(
        "8001" + "00000014" + "0000017e" + "00000001" + "000b" + "03" + "000800"
    )


def answer(value: bytes, *, count: int = 1, code: int = 0) -> bytes:
    body = struct.pack(">I", 7) + struct.pack(">IHB3s", 1, 0x000B, 3, b"\0\0\0") + struct.pack(">I", count)
    if count:
        body += struct.pack(">H", len(value)) + value
    return struct.pack(">HII", 0x8001, 10 + len(body), code) + body


def test_a_value_is_read_and_a_missing_bank_is_none() -> None:
    assert tpm.read_value(answer(b"\7" * 32), "sha256") == b"\7" * 32
    assert tpm.read_value(answer(b"", count=0), "sha256") is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes that are no answer"),
        (answer(b"\7" * 32)[:-1], "no answer"),
        (answer(b"\7" * 32, code=0x101), "refused with code 0x101"),
        (answer(b"\7" * 20), "20-byte value"),
        (struct.pack(">HII", 0x8001, 14, 0) + bytes(4), "cut off"),
    ],
)
def test_bad_answers_are_said_in_words(data: bytes, words: str) -> None:
    with pytest.raises(GuestError, match=words):
        tpm.read_value(data, "sha256")
