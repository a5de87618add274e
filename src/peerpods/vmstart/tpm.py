"""Two TPM 2.0 commands, PCR_Extend and PCR_Read, as bytes; and the device that answers them.

Source: TCG TPM 2.0 library, part 3 (commands) and part 2 (structures).
"""

# ruff: noqa: PTH110  (pathlib costs time at the start)
from __future__ import annotations

import os
import struct

from peerpods.errors import GuestError

DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
ALGORITHMS = {"sha256": (0x000B, 32), "sha384": (0x000C, 48)}
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_EXTEND, _READ = 0x182, 0x17E
_PASSWORD = struct.pack(">IHBH", 0x40000009, 0, 0, 0)  # an empty password session
_ANSWER_MAX = 4096


def extend_command(pcr: int, digests: dict[str, bytes]) -> bytes:
    """PCR_Extend of one register in several banks.

    Args:
        digests: bank to digest of its own size.
    """
    body = struct.pack(">II", pcr, len(_PASSWORD)) + _PASSWORD + struct.pack(">I", len(digests))
    for name, digest in digests.items():
        number, size = ALGORITHMS[name]
        assert len(digest) == size
        body += struct.pack(">H", number) + digest
    return struct.pack(">HII", _SESSIONS, 10 + len(body), _EXTEND) + body


def read_command(pcr: int, bank: str) -> bytes:
    """PCR_Read of one register."""
    select = bytearray(3)
    select[pcr // 8] = 1 << pcr % 8
    body = struct.pack(">IHB", 1, ALGORITHMS[bank][0], 3) + bytes(select)
    return struct.pack(">HII", _NO_SESSIONS, 10 + len(body), _READ) + body


def check_answer(answer: bytes) -> bytes:
    """The parameters of an answer.

    Raises:
        GuestError: when the TPM refused, or answered nonsense.
    """
    if len(answer) < 10 or struct.unpack_from(">I", answer, 2)[0] != len(answer):
        raise GuestError(f"the TPM answered {len(answer)} bytes that are no answer")
    code = struct.unpack_from(">I", answer, 6)[0]
    if code:
        raise GuestError(f"the TPM refused with code {code:#x}")
    return answer[10:]


def read_value(answer: bytes, bank: str) -> bytes | None:
    """The register's value in an answer to PCR_Read; None when the TPM has no such bank."""
    body = check_answer(answer)
    try:
        selections = struct.unpack_from(">I", body, 4)[0]
        at = 8
        for _ in range(min(selections, 16)):
            at += 3 + body[at + 2]
        count = struct.unpack_from(">I", body, at)[0]
        if not count:
            return None
        size = struct.unpack_from(">H", body, at + 4)[0]
    except (struct.error, IndexError) as error:
        raise GuestError("the TPM's answer to PCR_Read is cut off") from error
    value = body[at + 6 : at + 6 + size]
    if size != ALGORITHMS[bank][1] or len(value) != size:
        raise GuestError(f"the TPM gave a {size}-byte value for its {bank} bank")
    return value


class Tpm:
    """A TPM behind a device file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _ask(self, command: bytes) -> bytes:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(descriptor, command)
            return os.read(descriptor, _ANSWER_MAX)
        finally:
            os.close(descriptor)

    def read(self, pcr: int, bank: str = "sha256") -> bytes | None:
        """A register's value; None when there is no such bank."""
        return read_value(self._ask(read_command(pcr, bank)), bank)

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend a register in every bank that is on, by the digest cut or filled with zeros to the bank's size."""
        banks = {name: size for name, (_, size) in ALGORITHMS.items() if self.read(pcr, name) is not None}
        if not banks:
            raise GuestError("the TPM has neither a sha256 nor a sha384 bank")
        check_answer(
            self._ask(extend_command(pcr, {name: digest[:size].ljust(size, b"\0") for name, size in banks.items()}))
        )


def find() -> Tpm | None:
    """The VM's TPM, or None."""
    for path in DEVICES:
        if os.path.exists(path):
            return Tpm(path)
    return None
