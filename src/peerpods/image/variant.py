"""Which image: TEE, architecture and profile, and what follows from the three. Pure."""

from __future__ import annotations

from typing import Any

import attrs

from peerpods.errors import ConfigError
from peerpods.image import inputs


def _one_of(setting: str, value: str, allowed: list[str]) -> str:
    if value not in allowed:
        raise ConfigError(
            f"{setting}={value}: there is no such {setting.lower()}",
            setting=setting,
            remedy="choose one of " + ", ".join(allowed),
        )
    return value


@attrs.frozen(kw_only=True)
class Variant:
    """One image of the matrix; made by `choose`."""

    tee: str
    arch: str
    profile: str

    @property
    def name(self) -> str:
        """`<tee>-<arch>-<profile>`: the folder below build/images, and the end of IMAGE_VERSION."""
        return f"{self.tee}-{self.arch}-{self.profile}"

    @property
    def profile_facts(self) -> dict[str, Any]:
        """The profile's row of the inputs."""
        facts: dict[str, Any] = inputs.DATA["profiles"][self.profile]
        return facts

    @property
    def tee_facts(self) -> dict[str, Any]:
        """The TEE's row of the inputs."""
        facts: dict[str, Any] = inputs.DATA["tees"][self.tee]
        return facts

    @property
    def layout(self) -> str:
        """ "minimal": own init, small initrd, direct boot; "system": systemd, UKI, partitions."""
        return str(self.profile_facts["layout"])

    @property
    def image_id(self) -> str:
        """IMAGE_ID of os-release: profiles never share one, so no value of one can match another's."""
        return str(self.profile_facts["image_id"])

    @property
    def release(self) -> bool:
        """Whether `verify` may accept it as a release."""
        return bool(self.profile_facts["release"])

    def command_line(self, root: str) -> str:
        """The kernel command line.

        Args:
            root: what names the verity root: `roothash=HEX`, or `peerpods.verity=...` in the minimal layout.
        """
        table = inputs.DATA["command_line"]
        words = [f"console={inputs.DATA['architectures'][self.arch]['console']}"]
        if self.layout == "minimal":
            return " ".join([*table["minimal"], root])
        words += table["system"] + table["tees"][self.tee]
        if self.profile == "debug":
            words += table["debug"]
        return " ".join([*words, root])

    def packages(self) -> dict[str, str]:
        """Debian packages asked for, with what for."""
        table = inputs.DATA["packages"]
        if self.layout == "minimal":
            return dict(table["minimal"])
        found = dict(table["system"])
        if self.profile_facts["agent"] != "release":
            found |= table["development"]
        if self.profile_facts["shell"]:
            found |= table["debug"]
        return found | inputs.DATA["architectures"][self.arch].get("packages", {})

    def modules(self) -> list[str]:
        """Kernel modules in the root."""
        table = inputs.DATA["modules"]
        if self.layout == "minimal":
            return list(table["minimal"])
        absent = inputs.DATA["architectures"][self.arch].get("absent_modules", ())
        return [name for name in table["system"] + self.tee_facts["modules"] if name not in absent]


def choose(tee: str = "none", arch: str = "amd64", profile: str = "local") -> Variant:
    """A variant, checked.

    Raises:
        ConfigError: for an unknown TEE, architecture or profile, or a pair that does not exist.
    """
    data = inputs.DATA
    found = Variant(
        tee=_one_of("TEE", tee, list(data["tees"])),
        arch=_one_of("ARCH", arch, list(data["architectures"])),
        profile=_one_of("PROFILE", profile, list(data["profiles"])),
    )
    if arch not in found.tee_facts["architectures"]:
        allowed = ", ".join(found.tee_facts["architectures"])
        raise ConfigError(f"TEE={tee} does not exist on ARCH={arch}", setting="ARCH", remedy=f"give ARCH={allowed}")
    if found.layout == "minimal" and (tee, arch) != ("none", "amd64"):
        raise ConfigError(
            f"PROFILE={profile} is for TEE=none ARCH=amd64 only",
            setting="PROFILE",
            remedy="give PROFILE=prod, prod-test or debug",
        )
    return found
