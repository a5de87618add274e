"""Which agent the image gets: a kata-agent release with its guest components, or the development agent."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import attrs

from peerpods.errors import ConfigError

COMPONENTS = ("confidential-data-hub", "attestation-agent", "api-server-rest")
REQUIRED = "confidential-data-hub"


@attrs.frozen
class Agent:
    """The agent of an image.

    `files` are programs by name (below /usr/local/bin) with their digests; {} when it is ours.
    """

    kind: str = "development"
    files: dict[str, tuple[Path, str]] = attrs.Factory(dict)

    def facts(self) -> dict[str, object]:
        """For manifest.json and the content key."""
        return {"kind": self.kind, "files": {name: digest for name, (_, digest) in sorted(self.files.items())}}


def choose(agent: Path | None, sha256: str | None, components: Path | None) -> Agent:
    """The agent that the options of `make image` ask for.

    Raises:
        ConfigError: when options are missing, a file is not there, or a digest is not the given one.
    """
    if agent is None:
        if sha256 or components:
            raise ConfigError("KATA_AGENT_SHA256 and GUEST_COMPONENTS need KATA_AGENT=FILE", setting="KATA_AGENT")
        return Agent()
    if components is None:
        raise ConfigError(
            "a release agent pulls images only through confidential-data-hub: the agent without it is refused",
            setting="GUEST_COMPONENTS",
            remedy="give GUEST_COMPONENTS=DIR with confidential-data-hub and its kin, or leave KATA_AGENT away",
        )
    if not re.fullmatch(r"[0-9a-f]{64}", sha256 or ""):
        raise ConfigError(
            "KATA_AGENT needs KATA_AGENT_SHA256=HEX, 64 lower-case hex digits", setting="KATA_AGENT_SHA256"
        )
    files = {"kata-agent": (agent, _digest(agent, "KATA_AGENT"))}
    if files["kata-agent"][1] != sha256:
        raise ConfigError(
            f"{agent} has the digest {files['kata-agent'][1]}, not {sha256}",
            setting="KATA_AGENT_SHA256",
            remedy="fetch the release again, or correct the digest",
        )
    if not (components / REQUIRED).is_file():
        raise ConfigError(
            "a release agent pulls images only through confidential-data-hub: the agent without it is refused"
            f" (there is none in {components})",
            setting="GUEST_COMPONENTS",
        )
    for name in COMPONENTS:
        if (components / name).is_file():
            files[name] = (components / name, _digest(components / name, "GUEST_COMPONENTS"))
    return Agent("kata", files)


def _digest(file: Path, setting: str) -> str:
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise ConfigError(f"{file} is empty", setting=setting)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", setting=setting) from error
