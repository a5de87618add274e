"""Which TEE this VM is in, and what its hardware says of the initdata.

| TEE | found by | the value that the VM's owner bound at launch |
|---|---|---|
| snp | /dev/sev-guest | HOST_DATA of an attestation report (32 bytes) |
| tdx | /dev/tdx_guest | MRCONFIGID of a TD report (48 bytes) |
| se | prot_virt_guest | none that the guest can read: the verifier compares it |
| vtpm | /dev/tpmrm0 | none at launch: PCR 8 is extended before anything else runs |

Sources: SEV-SNP firmware ABI, ATTESTATION_REPORT; Intel TDX module ABI, TDREPORT_STRUCT; Linux sev-guest and tdx-guest.
"""

# ruff: noqa: PTH102, PTH106  (pathlib costs time at the start)
from __future__ import annotations

import enum
import os
from collections.abc import Callable

from peerpods.errors import GuestError

SEV_GUEST, TDX_GUEST = "/dev/sev-guest", "/dev/tdx_guest"
PROTECTED = "/sys/firmware/uv/prot_virt_guest"
TSM = "/sys/kernel/config/tsm/report"
_HOST_DATA = slice(0xC0, 0xE0)
_MRCONFIGID = slice(512 + 64, 512 + 112)
_TDX_GET_REPORT = 0xC4405401  # _IOWR('T', 1, 1088 bytes)


class Tee(enum.Enum):
    """What protects this VM."""

    SNP = "snp"
    TDX = "tdx"
    SE = "se"
    VTPM = "vtpm"
    NONE = "none"


def detect(exists: Callable[[str], bool] = os.path.exists, read: Callable[[str], str] | None = None) -> Tee:
    """The strongest protection that is there."""
    if exists(SEV_GUEST):
        return Tee.SNP
    if exists(TDX_GUEST):
        return Tee.TDX
    if exists(PROTECTED) and (read or _read_text)(PROTECTED).strip() == "1":
        return Tee.SE
    if exists("/dev/tpmrm0") or exists("/dev/tpm0"):
        return Tee.VTPM
    return Tee.NONE


def _read_text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read(16)


def snp_host_data(folder: str = TSM) -> bytes:
    """HOST_DATA of this VM, from a report through configfs-tsm.

    Raises:
        GuestError: when no report can be had.
    """
    entry = f"{folder}/peerpods"
    try:
        os.mkdir(entry)
        try:
            with open(f"{entry}/inblob", "wb", buffering=0) as file:
                file.write(bytes(64))
            with open(f"{entry}/outblob", "rb", buffering=0) as file:
                report = file.read(8192)
        finally:
            os.rmdir(entry)
    except OSError as error:
        raise GuestError(f"no SNP report: {error.strerror}") from error
    if len(report) < 0x4A0:
        raise GuestError(f"the SNP report has {len(report)} bytes, not 1184")
    return report[_HOST_DATA]


def tdx_config_id(device: str = TDX_GUEST) -> bytes:
    """MRCONFIGID of this VM, from a TD report.

    Raises:
        GuestError: when no report can be had.
    """
    import fcntl

    buffer = bytearray(64 + 1024)
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TDX_GET_REPORT, buffer)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise GuestError(f"no TD report: {error.strerror}") from error
    return bytes(buffer[64:][_MRCONFIGID])


def check_binding(bound: bytes, digest: bytes | None) -> None:
    """Compare what was bound at launch with the initdata that came with the user data. Pure.

    Args:
        bound: HOST_DATA or MRCONFIGID.
        digest: the initdata's digest; None when there is no initdata.

    Raises:
        GuestError: when they are not of the same initdata.
    """
    expected = (digest or b"")[: len(bound)].ljust(len(bound), b"\0")
    if bound == expected:
        return
    if digest is None:
        raise GuestError("this VM was launched for an initdata, and none came with its user data")
    if not any(bound):
        raise GuestError("an initdata came with the user data, and this VM was launched for none")
    raise GuestError("the initdata of the user data is not the one this VM was launched for")
