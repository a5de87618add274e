"""How a firmware is made from the source: the commands, and a key over all that decides its bytes. Pure."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from peerpods.errors import ConfigError
from peerpods.image import inputs

TOOLCHAIN = "GCC5"  # edk2's name for every GCC since 5
RELEASE = "RELEASE"


@attrs.frozen(kw_only=True)
class Recipe:
    """One firmware to build."""

    tee: str
    dsc: str
    """The platform description, below the source."""
    output: str
    """Folder of the results, below Build/."""
    file: str
    """Name of the result."""
    flags: tuple[str, ...]
    """Of edk2's `build`."""
    drop: tuple[str, ...]
    """Lines of the platform description that begin so are taken out."""
    empty: tuple[str, ...]
    """Files made empty: what the dropped steps would have made."""

    @property
    def result(self) -> str:
        """The finished firmware, below the source."""
        return f"Build/{self.output}/{RELEASE}_{TOOLCHAIN}/FV/OVMF.fd"


def recipe(tee: str) -> Recipe | None:
    """The firmware of a TEE; None for one that takes Debian's as it is.

    Raises:
        ConfigError: for a TEE that has no such firmware.
    """
    if tee not in inputs.DATA["tees"]:
        raise ConfigError(f"TEE={tee}: there is no such tee", setting="TEE")
    if tee == "se":
        raise ConfigError("TEE=se has no firmware file: the machine's own starts the image", setting="TEE")
    pins: dict[str, Any] = inputs.DATA["pins"]["firmware"]
    facts = pins["targets"].get(tee)
    if facts is None:
        return None
    return Recipe(
        tee=tee,
        dsc=facts["dsc"],
        output=facts["output"],
        file=facts["file"],
        flags=tuple(facts["flags"]),
        drop=tuple(facts["drop"]),
        empty=tuple(facts["empty"]),
    )


def prepare_script(upstream: str, own: str) -> str:
    """Shell commands that lay the source out in /work/edk2, with Debian's patches."""
    archive = "tar -xJf {} --no-same-owner --no-same-permissions -C /work/edk2"
    return "\n".join(
        (
            "set -eu",
            "umask 022",
            "mkdir /work/edk2",
            archive.format(shlex.quote(f"/work/{upstream}")) + " --strip-components=1",
            "rm -rf /work/edk2/debian",
            archive.format(shlex.quote(f"/work/{own}")),
        )
    )


def patch_script(names: Sequence[str]) -> str:
    """Shell commands that apply patches, in order; one that does not apply ends it."""
    return "\n".join(
        ("set -eu", "cd /work/edk2", *(f"patch -p1 -s -f -i {shlex.quote(f'debian/patches/{name}')}" for name in names))
    )


def tools_script(jobs: int) -> str:
    """Shell commands that build edk2's own tools."""
    return f"set -eu; cd /work/edk2; {_ENVIRONMENT}; make -s -j{jobs} -C BaseTools ARCH=X64"


def build_script(made: Recipe, version: str, jobs: int, epoch: int = inputs.EPOCH) -> str:
    """Shell commands that build the firmware.

    Args:
        made: which.
        version: of the source package; shown by the firmware (SMBIOS).
        jobs: how many compilers at once; no byte depends on it.
        epoch: date of the firmware, seconds.
    """
    texts = {
        "PcdFirmwareVendor": "peerpods build of Debian edk2",
        "PcdFirmwareVersionString": version,
        "PcdFirmwareReleaseDateString": _date(epoch),
    }
    shown = [word for name, text in texts.items() for word in ("--pcd", f"{name}=L{text}\\0")]
    words = ["build", "-q", "-n", str(jobs), "-a", "X64", "-t", TOOLCHAIN, "-b", RELEASE, "-p", made.dsc]
    lines = ["set -eu", "cd /work/edk2", _ENVIRONMENT]
    lines += [f"sed -i {shlex.quote(f'/^ *{start}/d')} {shlex.quote(made.dsc)}" for start in made.drop]
    lines += [f": > {shlex.quote(name)}" for name in made.empty]
    lines.append(shlex.join([*words, *made.flags, *shown]))
    return "\n".join(lines)


_ENVIRONMENT = (
    "umask 022; export PYTHON_COMMAND=python3 PYTHONDONTWRITEBYTECODE=1; set +u; . ./edksetup.sh >/dev/null; set -u"
)


def _date(epoch: int) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%m/%d/%Y")


def key(digests: Mapping[str, str], tools: str, made: Recipe, version: str) -> str:
    """What names a built firmware: the source's digests, the build tree's lock, and the commands. 16 hex digits."""
    facts = [dict(digests), tools, build_script(made, version, 0), made.result]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
