"""One record per setting: its flag, environment variable, default, allowed values and help.

A settings class is a frozen attrs class whose fields are made by `option()`. Everything else (twistd flags, TOML keys,
environment, the check, `--check-config`, the documentation) is derived from these records.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any

import attrs


@attrs.frozen
class Kind:
    """How a setting is written and what is allowed."""

    allowed: str
    """For people: "a whole number from 1 to 65535"."""
    parse: Callable[[str], Any]
    """Text to value; ValueError when it is not allowed."""


def text(allowed: str = "text", pattern: str | None = None) -> Kind:
    """Free text, or text that matches a pattern as a whole."""

    def parse(value: str) -> str:
        if pattern is not None and not re.fullmatch(pattern, value):
            raise ValueError(value)
        return value

    return Kind(allowed, parse)


def path() -> Kind:
    """An absolute path."""

    def parse(value: str) -> str:
        if not value.startswith("/") or "\0" in value:
            raise ValueError(value)
        return value

    return Kind("an absolute path", parse)


def optional_path() -> Kind:
    """An absolute path, or nothing."""
    inner = path()
    return Kind("an absolute path, or nothing", lambda value: inner.parse(value) if value else "")


def integer(low: int, high: int) -> Kind:
    """A whole number within bounds, both included."""

    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return Kind(f"a whole number from {low} to {high}", parse)


_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(low: float, high: float) -> Kind:
    """A duration in seconds, or with a unit as in Go ("90", "1.5s", "5m")."""

    def parse(value: str) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", value)
        if match is None:
            raise ValueError(value)
        number = float(match[1]) * _UNITS[match[2] or ""]
        if not math.isfinite(number) or not low <= number <= high:
            raise ValueError(value)
        return number

    return Kind(f"seconds from {low:g} to {high:g} (units ms, s, m, h are understood)", parse)


def boolean() -> Kind:
    """true or false (also 1, 0, yes, no)."""

    def parse(value: str) -> bool:
        lowered = value.lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
        raise ValueError(value)

    return Kind("true or false", parse)


def choice(*names: str) -> Kind:
    """One of some names."""

    def parse(value: str) -> str:
        if value not in names:
            raise ValueError(value)
        return value

    return Kind("one of " + ", ".join(names), parse)


def http_address() -> Kind:
    """`ADDRESS:PORT` to listen on, or nothing for none."""

    def parse(value: str) -> str:
        if not value:
            return ""
        host, _, port = value.rpartition(":")
        ipaddress.ip_address(host.strip("[]"))
        if not 0 <= int(port) <= 65535:
            raise ValueError(value)
        return value

    return Kind("ADDRESS:PORT, or nothing", parse)


OPTION = "peerpods.option"


@attrs.frozen(kw_only=True)
class Option:
    """What `option()` leaves in an attrs field's metadata."""

    flag: str
    kind: Kind
    help: str
    env: str | None = None
    secret: bool = False
    default: Any = None
    required: bool = False


def option(
    flag: str,
    kind: Kind,
    default: Any,
    help: str,
    *,
    env: str | None = None,
    secret: bool = False,
    required: bool = False,
) -> Any:
    """An attrs field that is a setting. `default` is the parsed value, not text.

    Args:
        flag: name after `--`, and the TOML key.
        env: environment variable, named as in the existing system where it has one.
        secret: the value is shown as `(set)` in `--check-config` and never logged.
        required: an unset value is a mistake.
    """
    record = Option(flag=flag, kind=kind, help=help, env=env, secret=secret, default=default, required=required)
    return attrs.field(default=default, metadata={OPTION: record}, repr=not secret)


def options_of(settings: type[Any]) -> dict[str, Option]:
    """Field name to record, in order, for a settings class."""
    return {f.name: f.metadata[OPTION] for f in attrs.fields(settings) if OPTION in f.metadata}
