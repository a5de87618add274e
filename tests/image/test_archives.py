"""Which archive the image's packages come from: the one the host's own apt uses."""

from __future__ import annotations

import pytest

from peerpods.errors import ConfigError
from peerpods.image.debian import archives

ONE_LINE = """# deb http://old.example/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian/ bookworm main
deb http://security.example/debian-security bookworm-security main
deb https://other.example/apt nodistro main
"""
DEB822 = """Types: deb
URIs: https://mirror.example/pub/debian
Suites: trixie
"""


def test_addresses_are_read_in_both_forms():
    assert archives([ONE_LINE]) == {
        "debian": "http://mirror.example/debian",
        "debian-security": "http://security.example/debian-security",
    }
    assert archives(["", DEB822])["debian"] == "https://mirror.example/pub/debian"


def test_a_mirror_without_a_security_address_serves_both():
    assert archives([DEB822])["debian-security"] == "https://mirror.example/pub/debian-security"


def test_no_archive_is_said_in_words():
    with pytest.raises(ConfigError, match="no Debian archive"):
        archives(["deb https://other.example/apt nodistro main\n"])
