"""Which agent goes into the image: the options of `make image`, and what is said about wrong ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from peerpods.errors import ConfigError
from peerpods.image import tree
from peerpods.image.agentkind import Agent, choose

REFUSAL = "a release agent pulls images only through confidential-data-hub: the agent without it is refused"


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, str, Path]:
    """A stand-in for a release: agent, its digest, folder of components."""
    agent = tmp_path / "kata-agent"
    agent.write_bytes(b"agent")
    components = tmp_path / "components"
    components.mkdir()
    for name in ("confidential-data-hub", "attestation-agent"):
        (components / name).write_bytes(name.encode())
    return agent, hashlib.sha256(b"agent").hexdigest(), components


def test_no_option_is_the_development_agent() -> None:
    """And the image says so."""
    assert choose(None, None, None) == Agent("development", {})
    text = tree.os_release(Agent())
    assert 'PEERPODS_AGENT="development"\n' in text and 'VARIANT_ID="development"\n' in text


def test_release_with_components(release: tuple[Path, str, Path]) -> None:
    """All programs are taken, with their digests in the key."""
    agent, digest, components = release
    chosen = choose(agent, digest, components)
    assert chosen.kind == "kata"
    assert sorted(chosen.files) == ["attestation-agent", "confidential-data-hub", "kata-agent"]
    assert chosen.facts()["files"]["kata-agent"] == digest  # type: ignore[index]
    assert 'PEERPODS_AGENT="kata"\n' in tree.os_release(chosen)


def test_agent_without_components_is_refused(release: tuple[Path, str, Path], tmp_path: Path) -> None:
    """No folder, or a folder without confidential-data-hub."""
    agent, digest, components = release
    with pytest.raises(ConfigError, match=REFUSAL):
        choose(agent, digest, None)
    (components / "confidential-data-hub").unlink()
    with pytest.raises(ConfigError, match=REFUSAL):
        choose(agent, digest, components)


def test_wrong_digest_is_refused(release: tuple[Path, str, Path]) -> None:
    """With both digests in the text."""
    agent, digest, components = release
    with pytest.raises(ConfigError, match=f"has the digest {digest}, not {'0' * 64}"):
        choose(agent, "0" * 64, components)
    for bad in (None, "", digest[:-1], digest.upper()):
        with pytest.raises(ConfigError, match="64 lower-case hex digits"):
            choose(agent, bad, components)


def test_missing_agent_and_stray_options(release: tuple[Path, str, Path], tmp_path: Path) -> None:
    """A file that is not there, and options that need another."""
    _, digest, components = release
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        choose(tmp_path / "none", digest, components)
    with pytest.raises(ConfigError, match="need KATA_AGENT=FILE"):
        choose(None, digest, None)


def test_command_says_it_in_one_line(release: tuple[Path, str, Path]) -> None:
    """Exit code 2 and one line, no trace."""
    agent, digest, _ = release
    done = subprocess.run(
        [sys.executable, "-m", "peerpods.image", "build", "--kata-agent", str(agent), "--kata-agent-sha256", digest],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and REFUSAL in done.stderr
