"""The measured start of a pod VM: user data, initdata bound to the hardware, registers shown. Any failure ends the VM.

Order matters: nothing of the user data is used before its initdata is confirmed; the forwarder starts afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

from peerpods.errors import GuestError, PeerPodError
from peerpods.userdata import reader
from peerpods.vmstart import tee as tees
from peerpods.vmstart import tpm as tpms
from peerpods.vmstart.tee import Tee
from peerpods.vmstart.tpm import Tpm

OS_RELEASE = "/etc/os-release"
DIGEST = "/run/peerpod/initdata.digest"
SHOWN = (4, 7, 8, 9, 11)
INITDATA_PCR = 8
MODULES = ("sev-guest", "tdx-guest", "tpm_crb", "tpm_tis", "s390-trng")
STRICT = frozenset({"podvm", "podvm-prodtest"})
"""IMAGE_IDs that end a VM which nothing protects."""
USER_DATA_SECONDS = 180


def os_release(text: str) -> dict[str, str]:
    """The fields of os-release. Pure."""
    rows = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in rows}


def check_protection(image_id: str, found: Tee) -> str:
    """What to say of the protection; raises when this image must not run without. Pure.

    Raises:
        GuestError: a release without TEE and vTPM, or the test image without the vTPM it stands for.
    """
    if found is not Tee.NONE:
        return f"protected by {found.value}"
    if image_id in STRICT:
        raise GuestError("this machine has neither a TEE nor a vTPM: nothing of it could be proven, so it ends here")
    return "WARNING: nothing protects this VM; this image is no release"


def lines(registers: Mapping[int, bytes | None], digest: bytes | None) -> list[str]:
    """One machine-readable line a register, and one for the initdata. Pure."""
    shown = [f"peerpods-measured pcr={pcr} sha256={value.hex()}" for pcr, value in registers.items() if value]
    return [*shown, f"peerpods-measured initdata={digest.hex() if digest else 'none'}"]


def bind(found: Tee, tpm: Tpm | None, digest: bytes | None) -> None:
    """Confirm the initdata by the TEE, and extend it where there is a TPM.

    Raises:
        GuestError: when it is not the one that this VM was launched for, or the hardware does not answer.
    """
    if found is Tee.SNP:
        tees.check_binding(tees.snp_host_data(), digest)
    elif found is Tee.TDX:
        tees.check_binding(tees.tdx_config_id(), digest)
    if tpm is not None and digest is not None:
        tpm.extend(INITDATA_PCR, digest)


def read_digest(path: str = DIGEST) -> bytes | None:
    """The initdata's digest as the user data reader wrote it; None when there was no initdata."""
    try:
        with open(path, encoding="ascii") as file:
            return bytes.fromhex(file.read(256))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise GuestError(f"{path} is no digest") from error


def prepare(say: Callable[[str], None]) -> None:
    """All of it.

    Raises:
        PeerPodError: why the VM must end.
    """
    with open(OS_RELEASE, encoding="utf-8") as file:
        image_id = os_release(file.read(65536)).get("IMAGE_ID", "")
    # One that the kernel lacks, or has no device for, is not a fault, and does not keep the next from being loaded.
    subprocess.run(["/usr/sbin/modprobe", "-q", "-a", *MODULES], check=False, timeout=60)
    found = tees.detect()
    say(check_protection(image_id, found))
    code = reader.run(["--timeout", str(USER_DATA_SECONDS)])
    if code:
        raise GuestError("there is no usable user data (the line above says why)")
    digest = read_digest()
    tpm = tpms.find()
    bind(found, tpm, digest)
    registers = {pcr: tpm.read(pcr) for pcr in SHOWN} if tpm else {}
    for line in lines(registers, digest):
        say(line)


def main() -> int:
    """The unit peerpods-prepare: 0, or 1 after one line of reason."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        prepare(say)
    except (PeerPodError, OSError, subprocess.SubprocessError) as error:
        say(f"peerpods stopped: {error}")
        os.sync()
        return 1
    return 0
