"""The providers' settings, read again whenever they are needed: environment, mounted files, configuration file.

A process's environment never changes, so credentials that shall change without a restart come as files: a Secret
mounted at --provider-dir, each key a file named like the environment variable. kubelet swaps the files of such a
mount some seconds after the Secret; the next use of the provider sees it and makes the provider anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import attrs

from peerpods.clouds import registry
from peerpods.config.load import Mistakes, read_file, sub_table
from peerpods.config.resolve import nearest, resolve
from peerpods.errors import ConfigError

FILES_MAX, FILE_MAX = 256, 1 << 16
"""Files of a folder that are looked at, and bytes of each."""
HIDE_MIN = 4
"""Characters from which a file's value is cut out of words; shorter ones would tear ordinary words."""


def read_folder(folder: Path) -> dict[str, str]:
    """File name to content, without the newline at its end; {} when there is no such folder.

    Hidden entries, folders, and what cannot be read as text are passed over: kubelet's own `..data` is among them.
    """
    found: dict[str, str] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return {}
    for entry in entries[:FILES_MAX]:
        if entry.name.startswith(".") or not entry.is_file():
            continue
        try:
            with entry.open("rb") as file:
                found[entry.name] = file.read(FILE_MAX).decode().removesuffix("\n")
        except (OSError, UnicodeDecodeError):
            continue
    return found


@attrs.frozen
class Configured:
    """One provider's settings, and a mark that differs when they do."""

    settings: Any
    mark: str


@attrs.frozen(kw_only=True)
class Configuration:
    """Where the settings of providers come from; later sources win."""

    path: str = ""
    """The TOML file with tables [provider.NAME], or nothing."""
    folder: str = ""
    """--provider-dir, or nothing."""
    environ: Mapping[str, str] = attrs.field(factory=dict)

    def files(self, name: str) -> dict[str, str]:
        """What the files of --provider-dir say for a provider; those of its own subfolder win."""
        if not self.folder:
            return {}
        return {**read_folder(Path(self.folder)), **read_folder(Path(self.folder, name))}

    def sources(self, name: str) -> tuple[dict[str, str], Mapping[str, object]]:
        """Environment with the files over it, and the TOML table."""
        environ = {**self.environ, **self.files(name)}
        return environ, sub_table(read_file(self.path), f"provider.{name}")

    def read(self, name: str) -> Configured:
        """The settings of a provider as they are now. Blocking, but only small local files.

        Raises:
            ConfigError: when there is no such provider, or a setting of it is wrong; names the setting.
        """
        settings_class = registry.settings_class(name)
        try:
            environ, table = self.sources(name)
        except Mistakes as error:
            raise ConfigError(str(error)) from None
        found = resolve(settings_class, flags={}, environ=environ, table=table, table_name=f"provider.{name}")
        if found.settings is None:
            # The files are a Secret, and these words come into events and objects that users read.
            files = self.files(name)
            raise ConfigError(
                "; ".join(
                    str(attrs.evolve(one, value="(a value of a file)") if one.value and one.setting in files else one)
                    for one in found.mistakes
                ),
                setting=f"provider.{name}",
                remedy=f"mend the settings of provider {name} of peerpod-ctrl; they are read again at the next try",
            )
        # SDKs read credentials from files and variables of their own: any change among ours makes the provider anew.
        parts = (attrs.astuple(found.settings), sorted(environ.items()))
        return Configured(found.settings, hashlib.sha256(repr(parts).encode()).hexdigest())

    def hidden(self, name: str, text: str) -> str:
        """Text without the values of the files: a cloud may quote what it was given."""
        values = {value.strip() for value in self.files(name).values()}
        for value in sorted((one for one in values if len(one) >= HIDE_MIN), key=len, reverse=True):
            text = text.replace(value, "(secret)")
        return text

    def named(self) -> list[str]:
        """Providers that have a table in the file or a subfolder, in order of name."""
        try:
            tables = sub_table(read_file(self.path), "provider")
        except Mistakes:
            tables = {}
        names = set(tables)
        if self.folder:
            names |= {name for name in registry.names() if Path(self.folder, name).is_dir()}
        return sorted(names & set(registry.names()))


class Exports:
    """Puts the files' values into the process's environment, for SDKs that read their credentials there.

    Of two providers whose files give one variable different values, the one made last wins: let those be settings of
    the provider, which each reads for itself.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._before: dict[str, str | None] = {}

    def put(self, values: Mapping[str, str]) -> None:
        """Set these variables; what an earlier call set and is not among them becomes what it was before."""
        for name in [one for one in self._before if one not in values]:
            before = self._before.pop(name)
            if before is None:
                self._environ.pop(name, None)
            else:
                self._environ[name] = before
        for name, value in values.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
                continue
            self._before.setdefault(name, self._environ.get(name))
            self._environ[name] = value


def unknown_provider(name: str, namespace: str) -> str:
    """Why a provider cannot be had, in words; empty when it can be."""
    if name in registry.names():
        return ""
    known = ", ".join(registry.names())
    if not name:
        return (
            "the PeerPod names no provider, and peerpod-ctrl has none by default: set spec.cloudProvider, or give "
            "peerpod-ctrl CLOUD_PROVIDER"
        )
    close = nearest(name, registry.names())
    hint = f" (did somebody mean {close!r}?)" if close else ""
    return (
        f"there is no provider {name!r}{hint}; known: {known}. Delete the VM, then the object's finalizer, by hand, or "
        f"run a controller that knows {name!r}; namespace {namespace} cannot go before that"
    )
