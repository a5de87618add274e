"""The providers by name. A provider's package is imported when its name is asked for, never before.

Each package has `settings.py` (light: only `config.fields`) with the class named here, and `provider.py` with
`make_provider(settings, reactor)`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from peerpods.clouds.interface import Provider
from peerpods.errors import ConfigError

_SETTINGS = {
    "libvirt": "LibvirtSettings",
    "memory": "MemorySettings",
    "netns": "NetnsSettings",
}


def names() -> list[str]:
    """Names of all providers, sorted; what `--provider` takes."""
    return sorted(_SETTINGS)


def settings_class(name: str) -> type[Any]:
    """The attrs class of a provider's table [provider.NAME]; imports no SDK.

    Raises:
        ConfigError: for a name that is none of `names()`.
    """
    _check(name)
    module = importlib.import_module(f"peerpods.clouds.{name}.settings")
    found: type[Any] = getattr(module, _SETTINGS[name])
    return found


def load(name: str) -> ModuleType:
    """Import a provider's package with its SDK.

    Raises:
        ConfigError: for an unknown name, or when the SDK is not installed.
    """
    _check(name)
    try:
        return importlib.import_module(f"peerpods.clouds.{name}.provider")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("peerpods"):
            raise
        raise ConfigError(
            f"provider {name} needs the Python module {error.name}, which is not installed",
            setting="provider",
            remedy=f"install {error.name} into the environment that runs the adaptor",
        ) from error


def make_provider(name: str, settings: Any, reactor: Any) -> Provider:
    """A configured provider, not yet started.

    Args:
        settings: an instance of `settings_class(name)`.
    """
    made: Provider = load(name).make_provider(settings, reactor)
    return made


def _check(name: str) -> None:
    if name not in _SETTINGS:
        raise ConfigError(
            f"there is no provider {name!r}", setting="provider", remedy="choose one of " + ", ".join(names())
        )
