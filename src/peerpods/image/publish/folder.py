"""One image's folder: its files by name, read once each, with errors in words."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from peerpods.errors import ConfigError, Refused
from peerpods.image.variant import Variant, choose

RAW, UKI, SE_IMAGE = "podvm.raw", "podvm.efi", "podvm.se"
KERNEL, INITRD, CMDLINE, ROOTHASH = "vmlinuz", "initrd.img", "cmdline", "roothash"
LOCK, MANIFEST, MEASUREMENTS, RVPS = "packages.lock", "manifest.json", "measurements.json", "rvps.json"
TOOLS_LOCK = "tools.lock"
CYCLONEDX, SPDX, PROVENANCE = "sbom.cdx.json", "sbom.spdx.json", "provenance.intoto.json"
SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "signing-key.pub"
SNP_FIRMWARE = "firmware/OVMF.amdsev.fd"
TDX_FIRMWARE = "firmware/OVMF.inteltdx.fd"
STOCK_FIRMWARE = "firmware/OVMF.fd"
UNSIGNED = frozenset({SUMS, SIGNATURE, PUBLIC_KEY})
"""What SHA256SUMS does not list: itself, its signature, and the key, which must come from elsewhere to count."""


@attrs.define
class ImageFolder:
    """`build/images/<tee>-<arch>-<profile>/`, finished or not."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json.

        Raises:
            ConfigError: when the folder is no image's.
        """
        try:
            found = json.loads((self.path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no JSON"
            raise ConfigError(
                f"{self.path} is no image folder: {MANIFEST}: {why}", remedy="make one with `make image`"
            ) from error
        if not isinstance(found, dict) or not isinstance(found.get("variant"), dict):
            raise ConfigError(f"{self.path} is no image folder of this version: {MANIFEST} names no variant")
        return found

    @cached_property
    def variant(self) -> Variant:
        """Which image it is, by its manifest."""
        named = self.manifest["variant"]
        return choose(*(str(named.get(key)) for key in ("tee", "arch", "profile")))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            Refused: when it is missing.
            ConfigError: when the folder is no image's.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            _ = self.manifest  # a folder that is no image's ends here
            raise Refused(
                f"{self.path / name} cannot be read: {error.strerror}", remedy="build the image again"
            ) from error

    def text(self, name: str) -> str:
        """A file's content as text, without the last line's end; Refused when it is none."""
        try:
            return self.read(name).decode().rstrip("\n")
        except UnicodeDecodeError as error:
            raise Refused(f"{self.path / name} is no text", remedy="build the image again") from error

    def json(self, name: str) -> Any:
        """A JSON file's content; Refused when it is none."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise Refused(f"{self.path / name} is no JSON: {error}", remedy="build the image again") from error

    def sha256(self, name: str) -> str:
        """Digest of a file, read in pieces."""
        try:
            with (self.path / name).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise Refused(
                f"{self.path / name} cannot be read: {error.strerror}", remedy="build the image again"
            ) from error

    def files(self) -> list[str]:
        """Names of all files that SHA256SUMS lists, sorted; subfolders with their path."""
        found = (file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())
        return sorted(name for name in found if name not in UNSIGNED)

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file by rename, so that it is never half there."""
        target = self.path / name
        scratch = target.with_name(target.name + ".new")
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        scratch.rename(target)

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON with sorted keys, so that equal contents are equal files."""
        self.write(name, json.dumps(content, indent=1, sort_keys=True) + "\n")
