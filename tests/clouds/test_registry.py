"""The registry: names, light settings, lazy import."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest

from peerpods.clouds import registry
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.config.fields import options_of
from peerpods.errors import ConfigError


def test_names() -> None:
    assert registry.names() == ["libvirt", "memory", "netns"]


@pytest.mark.parametrize("name", ["libvirt", "memory"])
def test_settings_are_options_with_good_defaults(name: str) -> None:
    settings = registry.settings_class(name)
    assert attrs.has(settings)
    options = options_of(settings)
    assert len(options) == len(attrs.fields(settings))
    for option in options.values():
        assert option.kind.parse(str(option.default)) == option.default, option.flag


def test_unknown_name_lists_the_known() -> None:
    for call in (registry.settings_class, registry.load):
        with pytest.raises(ConfigError, match="libvirt, memory, netns") as caught:
            call("clowd")
        assert caught.value.setting == "provider"


def test_make_provider() -> None:
    settings = registry.settings_class("memory")()
    assert isinstance(registry.make_provider("memory", settings, object()), MemoryProvider)


def test_a_missing_sdk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("peerpods.clouds.libvirt")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ConfigError, match="needs the Python module libvirt"):
        registry.load("libvirt")


def test_settings_import_no_sdk() -> None:
    code = (
        "import sys; from peerpods.clouds import registry; registry.settings_class('libvirt');"
        "sys.exit('libvirt' in sys.modules or 'twisted' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
