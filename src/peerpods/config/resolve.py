"""From flags, environment and a TOML file to one checked settings object, and to all mistakes at once. Pure.

Order: flag, then environment variable (an empty one counts as unset), then file, then default.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from peerpods.config.fields import Option, options_of

T = TypeVar("T")


@attrs.frozen
class Mistake:
    """One wrong setting, as one line for people."""

    setting: str
    """How the user wrote it: `--socket`, `PODS_DIR`, `[adaptor] socket`."""
    value: str
    """As written; "" for a setting that must be given and is not."""
    allowed: str
    nearest: str = ""

    def __str__(self) -> str:
        wrong = f"{self.value} is wrong" if self.value else "is missing"
        line = f"{self.setting}: {wrong}; allowed: {self.allowed}"
        return f"{line}; did you mean {self.nearest!r}?" if self.nearest else line


@attrs.frozen
class Resolved(Generic[T]):
    """The outcome: settings when there is no mistake, and where each value came from."""

    settings: T | None
    mistakes: tuple[Mistake, ...]
    origins: Mapping[str, str]
    """Flag name to "flag", "environment NAME", "file" or "default"."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a mistyped one most likely means, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def _shown(option: Option, value: object) -> str:
    return "(a secret value)" if option.secret else repr(value)


def _from_file(option: Option, value: object) -> str:
    """A TOML value as the text a flag would have; ValueError for kinds of values that no setting has."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise ValueError(value)


def _pick(
    option: Option, flags: Mapping[str, str], environ: Mapping[str, str], table: Mapping[str, object]
) -> tuple[object, str, str] | None:
    """(raw value, how the user named it, origin) of the strongest source that sets an option."""
    if option.flag in flags:
        return flags[option.flag], f"--{option.flag}", "flag"
    if option.env and environ.get(option.env):
        return environ[option.env], option.env, f"environment {option.env}"
    if option.flag in table:
        return table[option.flag], "", "file"
    return None


def resolve(
    settings: type[T],
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    table: Mapping[str, object],
    table_name: str,
) -> Resolved[T]:
    """Check every setting of one class.

    Args:
        flags: flag name (without dashes) to text, only those given.
        environ: the environment.
        table: the class's TOML table; unknown keys in it are mistakes.
        table_name: for the words of a mistake: "adaptor", "provider.libvirt".
    """
    options = options_of(settings)
    known = {option.flag for option in options.values()}
    mistakes = [
        Mistake(f"[{table_name}] {key}", "this key", "keys " + ", ".join(sorted(known)), nearest(key, known))
        for key in table
        if key not in known
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, option in options.items():
        found = _pick(option, flags, environ, table)
        if found is None:
            values[name] = option.default
            origins[option.flag] = "default"
            if option.required:
                how = f" or the variable {option.env}" if option.env else ""
                mistakes.append(Mistake(f"--{option.flag}", "", f"{option.kind.allowed} (give the flag{how})"))
            continue
        raw, named, origin = found
        origins[option.flag] = origin
        try:
            values[name] = option.kind.parse(_from_file(option, raw))
        except (ValueError, OverflowError):
            label = named or f"[{table_name}] {option.flag}"
            mistakes.append(Mistake(label, _shown(option, raw), option.kind.allowed))
    if mistakes:
        return Resolved(None, tuple(mistakes), origins)
    return Resolved(settings(**values), (), origins)


def describe(settings: object, origins: Mapping[str, str], table_name: str) -> list[str]:
    """The effective values with their origin, secrets hidden, one line each: what `--check-config` prints."""
    lines = [f"[{table_name}]"]
    for name, option in options_of(type(settings)).items():
        value = getattr(settings, name)
        shown = ("(set)" if value else "(unset)") if option.secret else value
        lines.append(f"{option.flag} = {shown}    # {origins.get(option.flag, 'default')}")
    return lines
