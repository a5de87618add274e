"""The commands of `python -m peerpods.image` refuse wrong inputs with one line and status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerpods.image.__main__ import main

SE = [word for name in ("kernel", "initrd", "cmdline", "stage3a", "stage3b", "root", "host-key", "certificate", "crl")
      for word in (f"--{name}", "/nowhere")]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["firmware", "--tee", "se"], "TEE=se has no firmware file"),
        (["firmware", "--tee", "sgx"], "no such tee"),
        (["fetch-agent", "--arch", "riscv64"], "no kata-agent release"),
        (["fetch-agent"], "no digest of"),
        (["se", *SE], "cannot be read"),
        (["se", *SE, "--profile", "other"], "no such profile"),
    ],
)
def test_wrong_inputs(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KATA_AGENT_SHA256", raising=False)
    place = ["--out", str(tmp_path / "out")] if words[0] == "se" else []
    assert main([*words, *place, "--cache", str(tmp_path / "cache")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("cache/*[!m]"))
