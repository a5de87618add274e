"""The files that every VM is told of: registry credentials and authorities, initdata of the node."""

from __future__ import annotations

import attrs

from peerpods.config.settings import GuestSettings
from peerpods.errors import ConfigError, Refused

MAX_FILE = 1 << 20  # bytes; far above what any provider's user data takes


@attrs.frozen
class GuestFiles:
    """Reads the files of the settings when they are needed, so that renewed credentials need no restart."""

    settings: GuestSettings

    def check(self) -> str:
        """Read everything once; the node's initdata as plain TOML, or "".

        Raises:
            ConfigError: naming the setting that cannot be used.
        """
        self.auth_json()
        self.registries_json()
        if not self.settings.initdata:
            return ""
        from peerpods.userdata.initdata import decode_initdata, read_initdata

        try:
            text = decode_initdata(self.settings.initdata)
            read_initdata(text)
        except Refused as error:
            raise ConfigError(f"initdata: {error.message}", setting="initdata") from error
        return text

    def auth_json(self) -> str | None:
        """Registry credentials; ConfigError when the file cannot be read."""
        return _read(self.settings.auth_json, "auth-json")

    def registries_json(self) -> str | None:
        """Registry authorities and plain-http hosts; ConfigError when the file cannot be read."""
        return _read(self.settings.registries_json, "registries-json")


def _read(path: str, setting: str) -> str | None:
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(MAX_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{setting}: {path} cannot be read: {why}", setting=setting) from error
    if len(text) > MAX_FILE:
        raise ConfigError(f"{setting}: {path} has more than {MAX_FILE} characters", setting=setting)
    return text
