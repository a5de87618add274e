"""The commands of `python -m peerpods.image` refuse wrong inputs with one line and status 2, and leave nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from peerpods.errors import LocalFailure
from peerpods.image import matrix
from peerpods.image.__main__ import main
from peerpods.image.run import failure
from peerpods.image.se import container
from peerpods.image.system import lock, tools

SE = [word for name in ("kernel", "initrd", "cmdline", "stage3a", "stage3b", "root", "host-key", "certificate", "crl")
      for word in (f"--{name}", "/nowhere")]  # fmt: skip
TEST_IMAGE = ("build", "--tee", "none", "--profile", "prod-test")
A = "a" * 64


@attrs.frozen
class Scene:
    """A folder of its own for each command, and what it said."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def refused(self, *words: str | Path, out: bool = True) -> str:
        """The one line; nothing is left of what was asked for."""
        place = ["--out", str(self.folder / "out" / "image")] if out else []
        assert main([*map(str, words), *place, "--cache", str(self.folder / "cache")]) == 2
        said = self.capsys.readouterr()
        assert said.out == "" and said.err.startswith("image: ") and said.err.count("\n") == 1
        assert not (self.folder / "out").exists()
        left = [file for file in self.folder.glob("cache/*") if file.suffix != ".pem" and file.suffix != ".lock"]
        assert left == []
        return said.err

    def file(self, name: str, content: bytes = b"", mode: int = 0o600) -> Path:
        """A file beside the cache."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    return Scene(tmp_path, capsys)


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
def test_wrong_inputs(words: list[str], said: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KATA_AGENT_SHA256", raising=False)
    assert said in scene.refused(*words, out=words[0] == "se")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tee", "sgx"], "TEE=sgx: there is no such tee (choose one of snp, tdx, se, none)"),
        (["--tee", "snp", "--arch", "s390x"], "TEE=snp does not exist on ARCH=s390x (give ARCH=amd64)"),
        (["--tee", "se", "--arch", "amd64"], "TEE=se does not exist on ARCH=amd64 (give ARCH=s390x)"),
        (["--tee", "none", "--arch", "riscv64"], "ARCH=riscv64: there is no such arch"),
        (["--profile", "release"], "PROFILE=release: there is no such profile"),
        (["--tee", "tdx", "--profile", "local"], "PROFILE=local is for TEE=none ARCH=amd64 only"),
        (["--lock", "maybe"], "LOCK=maybe: there is no such lock (choose strict or anew)"),
        (["--tee", "snp", "--lock", "maybe"], "LOCK=maybe: there is no such lock (choose strict or anew)"),
        (["--tee", "snp", "--profile", "prod"], "PROFILE=prod needs a kata-agent release"),
    ],
)
def test_a_build_that_there_is_not(words: list[str], said: str, scene: Scene) -> None:
    assert said in scene.refused("build", *words)


@pytest.mark.parametrize(
    ("digest", "said"),
    [
        ([], "KATA_AGENT needs KATA_AGENT_SHA256=HEX, 64 lower-case hex digits"),
        (["--kata-agent-sha256", A[:63]], "KATA_AGENT needs KATA_AGENT_SHA256=HEX, 64 lower-case hex digits"),
        (["--kata-agent-sha256", A], f", not {A} (fetch the release again, or correct the digest)"),
    ],
)
@pytest.mark.parametrize("tee", ["none", "snp"])
def test_an_agent_without_its_digest_or_with_another(digest: list[str], said: str, tee: str, scene: Scene) -> None:
    agent = scene.file("kata-agent", b"agent")
    components = scene.file("components/confidential-data-hub", b"hub").parent
    given = ("--kata-agent", agent, *digest, "--guest-components", components)
    assert said in scene.refused("build", "--tee", tee, "--profile", "prod", *given)


@pytest.mark.parametrize("words", [("build",), TEST_IMAGE, ("se", *SE)], ids=["local", "system", "se"])
def test_a_folder_with_other_things_is_never_removed(
    words: tuple[str, ...], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "_read", lambda *_: b"x")
    letter = scene.file("home/letter", b"dear")
    said = scene.refused(*words, "--out", letter.parent, out=False)
    assert f"{letter.parent} has other things than an image, which would be removed" in said
    assert letter.read_bytes() == b"dear"


def _elliptic() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    key = generate_private_key(SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (lambda: b"no key", 0o600, "is no plain PEM private key"),
        (_elliptic, 0o600, "is no ed25519 key (openssl genpkey -algorithm ed25519)"),
        (_elliptic, 0o644, "others may read this signing key (chmod 600 it)"),
    ],
)
def test_a_bad_signing_key(content: Callable[[], bytes], mode: int, said: str, scene: Scene) -> None:
    assert said in scene.refused(*TEST_IMAGE, "--signing-key", scene.file("key.pem", content(), mode))


@pytest.mark.parametrize("profile", ["prod-test", "local"])
@pytest.mark.parametrize("word", ["strict", "anew"])
@pytest.mark.parametrize("line", ["libc6", f"libc6 2.41-12 {A[:63]}", f"libc6 2.41 12 {A}"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_corrupt_lock(
    profile: str, word: str, line: str, which: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "FOLDER", scene.folder)
    for path in lock.files("amd64"):
        path.write_text(f"attrs 1 {A}\n")
    bad = lock.files("amd64")[which]
    bad.write_text(f"attrs 1 {A}\n{line}\n")
    said = scene.refused("build", "--profile", profile, "--lock", word, out=profile != "local")
    assert f"{bad}, line 2: " in said and "(write it anew with `make lock`)" in said


@pytest.mark.parametrize("profile", ["prod-test", "local"])
def test_a_lock_that_is_not_there(profile: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FOLDER", scene.folder)
    said = scene.refused("build", "--profile", profile, "--lock", "strict", out=profile != "local")
    assert "LOCK=strict: " in said and "cannot be read: No such file" in said


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb", "tar", "unshare"])
def test_a_tool_that_the_host_has_not(missing: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = scene.folder / "bin"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg-deb", "tar", *tools.PROGRAMS):
        if name != missing:
            (programs / name).symlink_to(shutil.which(name) or "/bin/true")
    monkeypatch.setenv("PATH", str(programs))
    assert f"image: not on PATH: {missing} (run `make setup`)" in scene.refused(*TEST_IMAGE)


def test_no_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    assert "MiB are free in" in scene.refused(*TEST_IMAGE)
    assert "MiB are free in" in scene.refused("build")


def test_what_a_tool_said_in_many_lines_is_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> Path:
        raise failure("dracut", 1, "dracut[I]: begin\ndracut[E]: FAILED: module x\ndracut[I]: end")

    monkeypatch.setattr(matrix, "build", build)
    assert "dracut failed with status 1: dracut[E]: FAILED: module x; all that it said is in /" in scene.refused(
        *TEST_IMAGE
    )


@pytest.mark.parametrize("error", [LocalFailure("one\ntwo"), OSError(5, "Input/output error", "/x\ny")])
def test_every_failure_is_one_line(error: Exception, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> Path:
        raise error

    monkeypatch.setattr(matrix, "build", build)
    scene.refused(*TEST_IMAGE)


def test_an_interrupt_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "build", build)
    assert main([*TEST_IMAGE, "--cache", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "image: interrupted: nothing half-made is left\n"


def test_the_process_says_it_too(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "peerpods.image", "build", "--lock", "x", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "image: LOCK=x: there is no such lock (choose strict or anew)\n"
