"""Admission warnings: what the person who made the pod reads in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

LONGEST = 256
"""Bytes of one warning; the API server may cut longer ones."""
MOST = 15
"""Warnings in one answer; the API server drops what goes beyond 4 KiB in all."""
_TAIL = "…"


@attrs.frozen
class Notice:
    """One warning."""

    kind: str
    """A short fixed name, for the metric."""
    text: str
    hopeless: bool = False
    """The pod can never work as it is: with the option, a reason to refuse it."""


def notice(kind: str, text: str, *, hopeless: bool = False) -> Notice:
    """A warning that fits: printable, in one line, at most LONGEST bytes."""
    plain = "peer pod: " + re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]", "?", text)
    encoded = plain.encode("utf-8", "replace")
    if len(encoded) > LONGEST:
        room = LONGEST - len(_TAIL.encode())
        plain = encoded[:room].decode("utf-8", "ignore") + _TAIL
    else:
        plain = encoded.decode()
    return Notice(kind, plain, hopeless)


def texts(notices: Iterable[Notice]) -> list[str]:
    """What goes into the answer: each text once, and a count of those there is no room for."""
    unique = list(dict.fromkeys(item.text for item in notices))
    if len(unique) <= MOST:
        return unique
    return [*unique[: MOST - 1], f"peer pod: {len(unique) - MOST + 1} more warnings are not shown"]
