"""Initdata: measured configuration of a VM. TOML text whose digest an attester can confirm.

| where                   | form                                                                    |
|-------------------------|-------------------------------------------------------------------------|
| the text                | TOML: algorithm, version, table [data] name = text                      |
| annotation, user data   | base64(gzip(text)); gzip's bytes may differ, so the digest is over text |
| in the VM               | the files of EXTRACTED in /run/peerpod, and initdata.digest in hex      |

Facts: upstream.md 4.4. Standard library only: it runs in the VM.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from peerpods.errors import Refused

EXTRACTED = ("aa.toml", "cdh.toml", "policy.rego")
"""The names that [data] may have."""
ALGORITHMS = {"sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}
VERSION = "0.1.0"
MAX_TEXT = 1024 * 1024  # bytes, unpacked
_REMEDY = "correct the initdata annotation of the pod, or the setting initdata"


class Initdata(NamedTuple):
    """Initdata that has been read and found sound."""

    algorithm: str
    digest: str
    """Hexadecimal, over the UTF-8 text."""
    files: dict[str, str]
    """Name (one of EXTRACTED) to content."""


def encode_initdata(toml_text: str) -> str:
    """base64(gzip(text)); equal texts give equal results."""
    import base64
    import gzip

    return base64.b64encode(gzip.compress(toml_text.encode(), mtime=0)).decode()


def decode_initdata(encoded: str) -> str:
    """The text out of base64(gzip(text)).

    Raises:
        Refused: when it is not that, or unpacks to more than MAX_TEXT.
    """
    import base64
    import binascii
    import zlib

    try:
        packed = base64.b64decode("".join(encoded.split()), validate=True)
        unpacker = zlib.decompressobj(wbits=31)  # 31: a gzip header and checksum are wanted
        text = unpacker.decompress(packed, MAX_TEXT + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise Refused("initdata is not base64 of gzip", remedy=_REMEDY) from None
    if len(text) > MAX_TEXT:
        raise Refused(f"initdata unpacks to more than {MAX_TEXT} bytes", remedy=_REMEDY)
    if not unpacker.eof or unpacker.unused_data:
        raise Refused("initdata is not one whole gzip member", remedy=_REMEDY)
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Refused("initdata is not UTF-8 text", remedy=_REMEDY) from None


def read_initdata(toml_text: str) -> Initdata:
    """Read and check the text.

    Raises:
        Refused: when it is not TOML, has an unknown algorithm or version, or a name outside EXTRACTED.
    """
    import tomllib

    raw = toml_text.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_TEXT:
        raise Refused(f"initdata has more than {MAX_TEXT} bytes", remedy=_REMEDY)
    try:
        document = tomllib.loads(toml_text)
    except (ValueError, RecursionError):  # a number of too many digits is no TOMLDecodeError
        raise Refused("initdata is not TOML", remedy=_REMEDY) from None
    algorithm = document.get("algorithm")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Refused("initdata names no known algorithm (sha256, sha384, sha512)", remedy=_REMEDY)
    if document.get("version") != VERSION:
        raise Refused(f"initdata has not the version {VERSION}", remedy=_REMEDY)
    data = document.get("data", {})
    if not isinstance(data, dict):
        raise Refused("[data] of initdata is not a table", remedy=_REMEDY)
    for name, content in data.items():
        if name not in EXTRACTED:
            raise Refused(f"initdata has the name {name[:80]!r}, allowed are {', '.join(EXTRACTED)}", remedy=_REMEDY)
        if not isinstance(content, str):
            raise Refused(f"{name} in initdata is not text", remedy=_REMEDY)
    return Initdata(algorithm, hashlib.new(ALGORITHMS[algorithm], raw).hexdigest(), dict(data))
