"""Which image the command line asks for, and what it refuses before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerpods.errors import ConfigError
from peerpods.image import __main__ as command
from peerpods.image import matrix


def chosen(*words: str) -> str:
    return matrix.wanted(command.parser().parse_args(["build", *words])).name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "none-amd64-local"),
        (["--tee", "snp"], "snp-amd64-prod-test"),
        (["--tee", "snp", "--kata-agent", "agent"], "snp-amd64-prod"),
        (["--tee", "se"], "se-s390x-prod-test"),
        (["--profile", "debug"], "none-amd64-debug"),
        (["--tee", "tdx", "--arch", "amd64", "--profile", "prod"], "tdx-amd64-prod"),
    ],
)
def test_what_is_not_given_is_filled_in(words: list[str], name: str) -> None:
    assert chosen(*words) == name


@pytest.mark.parametrize("words", [["--tee", "foo"], ["--arch", "foo"], ["--tee", "snp", "--arch", "s390x"]])
def test_what_fits_no_image_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        chosen(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tee", "tdx", "--arch", "s390x"], "TEE=tdx does not exist on ARCH=s390x"),
        (["--tee", "snp", "--profile", "local"], "PROFILE=local is for TEE=none"),
        (["--tee", "none", "--profile", "prod"], "needs a kata-agent release"),
        (["--tee", "se", "--profile", "prod"], "needs a kata-agent release"),
        (["--profile", "debug", "--signing-key", "/nonexistent"], "/nonexistent cannot be read"),
        (["--profile", "debug", "--twice"], "--twice is for PROFILE=local"),
    ],
)
def test_wrong_options_give_one_line_and_leave_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main(["build", *words, "--cache", str(tmp_path / "cache"), "--out", str(out / "image")]) == 2
    written = capsys.readouterr()
    assert said in written.err
    assert written.err.count("\n") == 1
    assert not written.out
    assert not out.exists() or not list(out.iterdir())
