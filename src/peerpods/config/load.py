"""Reads the configuration file and resolves all tables of a service together."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from peerpods.config.fields import options_of
from peerpods.config.resolve import Mistake, Resolved, describe, nearest, resolve

T = TypeVar("T")

TABLES = ("adaptor", "relay", "guest", "provider", "kubernetes", "peerpod-ctrl", "peerpodconfig-ctrl")


class Mistakes(Exception):
    """The configuration cannot be used; one line per mistake."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def read_file(path: str) -> dict[str, Any]:
    """The tables of a TOML file; `{}` for "".

    Raises:
        Mistakes: when it cannot be read, is not TOML, or has unknown tables.
    """
    if not path:
        return {}
    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise Mistakes([Mistake("--config", repr(path), f"a readable file ({error.strerror})")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Mistakes([Mistake("--config", repr(path), f"a TOML file ({error})")]) from None
    wrong = [
        Mistake(
            f"[{name}]" if isinstance(value, dict) else name,
            "this table",
            "tables " + ", ".join(TABLES),
            nearest(name, TABLES),
        )
        for name, value in document.items()
        if name not in TABLES or not isinstance(value, dict)
    ]
    if wrong:
        raise Mistakes(wrong)
    return document


def sub_table(document: Mapping[str, Any], dotted: str) -> Mapping[str, object]:
    """The table `[a.b]`, `{}` when absent.

    Raises:
        Mistakes: when it is a value and no table.
    """
    here: Any = document
    for part in dotted.split("."):
        here = here.get(part, {})
        if not isinstance(here, dict):
            raise Mistakes([Mistake(f"[{dotted}]", repr(here), "a table")])
    return here


@attrs.define
class Loader:
    """Resolves several settings classes against the same sources and gathers their mistakes."""

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    document: Mapping[str, Any]
    mistakes: list[Mistake] = attrs.field(factory=list)
    report: list[str] = attrs.field(factory=list)

    def section(self, settings: type[T], table_name: str) -> T | None:
        """One settings object, or None when it has mistakes (kept for `finish`)."""
        known = {option.flag for option in options_of(settings).values()}
        flags = {name: value for name, value in self.flags.items() if name in known}
        try:
            table = sub_table(self.document, table_name)
        except Mistakes as error:
            self.mistakes += error.mistakes
            return None
        found: Resolved[T] = resolve(settings, flags=flags, environ=self.environ, table=table, table_name=table_name)
        self.mistakes += found.mistakes
        if found.settings is not None:
            self.report += describe(found.settings, found.origins, table_name)
        return found.settings

    def check_providers(self, names: Iterable[str]) -> None:
        """Every table below [provider] must be a provider's; a mistyped one would count for nothing, unseen."""
        known = list(names)
        tables = self.document.get("provider", {})
        for name, value in tables.items():
            if name not in known or not isinstance(value, dict):
                allowed = "tables " + ", ".join(f"provider.{one}" for one in known)
                close = nearest(name, known)
                shown = "this table" if isinstance(value, dict) else f"the value {value!r}"
                self.mistakes.append(
                    Mistake(f"[provider] {name}", shown, allowed, f"provider.{close}" if close else "")
                )

    def finish(self) -> None:
        """Raise all mistakes at once, if there are any."""
        if self.mistakes:
            raise Mistakes(self.mistakes)
