"""The matrix of images: what follows from TEE, architecture and profile, and pairs that do not exist."""

from __future__ import annotations

import itertools

import pytest

from peerpods.errors import ConfigError
from peerpods.image import inputs
from peerpods.image.variant import Variant, choose

ALL = list(itertools.product(inputs.DATA["tees"], inputs.DATA["architectures"], inputs.DATA["profiles"]))


def existing() -> list[Variant]:
    found = []
    for tee, arch, profile in ALL:
        try:
            found.append(choose(tee, arch, profile))
        except ConfigError:
            continue
    return found


def test_the_matrix() -> None:
    names = {variant.name for variant in existing()}
    assert {"snp-amd64-prod", "tdx-amd64-prod", "se-s390x-prod", "none-amd64-local", "none-amd64-prod-test"} <= names
    assert not names & {"snp-s390x-prod", "se-amd64-prod", "snp-amd64-local", "tdx-s390x-debug"}


def test_only_prod_is_a_release_and_no_profile_shares_an_image_id() -> None:
    profiles = inputs.DATA["profiles"]
    assert [name for name, facts in profiles.items() if facts["release"]] == ["prod"]
    assert len({facts["image_id"] for facts in profiles.values()}) == len(profiles)


@pytest.mark.parametrize("variant", existing(), ids=lambda v: v.name)
def test_the_command_line_binds_the_root_and_turns_no_protection_off(variant: Variant) -> None:
    words = variant.command_line("roothash=" + "0" * 64).split()
    assert words[-1].startswith("roothash=")
    assert "panic=-1" in words
    assert not {"selinux=0", "audit=0", "mitigations=off", "enforcing=0", "systemd.debug-shell=1"} & set(words)
    if variant.layout == "system":
        assert {"lockdown=integrity", "module.sig_enforce=1", "rd.systemd.gpt_auto=0"} <= set(words)
    assert len(words) == len(set(words))


def test_no_release_has_what_the_development_agent_needs() -> None:
    for variant in existing():
        development = set(inputs.DATA["packages"]["development"]) & set(variant.packages())
        assert bool(development) == (variant.profile_facts["agent"] != "release")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sev", "amd64", "prod"), "TEE=sev: there is no such tee .choose one of snp"),
        (("snp", "arm64", "prod"), "ARCH=arm64"),
        (("snp", "amd64", "production"), "PROFILE=production"),
        (("snp", "s390x", "prod"), "TEE=snp does not exist on ARCH=s390x .give ARCH=amd64"),
        (("tdx", "amd64", "local"), "PROFILE=local is for TEE=none"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(words: tuple[str, str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        choose(*words)
    assert "\n" not in str(caught.value)
