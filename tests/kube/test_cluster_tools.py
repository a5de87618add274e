"""What tools/kube.sh takes from the environment and from the PATH; needs no server."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from peerpods.errors import LocalFailure
from tests.kube.cluster import TOP, assets, has_controllers, version_of


def program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def clients(*arguments: str | Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOP / "tools/kube_clients.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": path})


def test_named_assets_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("etcd", "kube-apiserver"):
        program(tmp_path / name, "Kubernetes v1.34.5")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert assets() == tmp_path
    assert version_of(tmp_path) == (1, 34)
    assert not has_controllers(tmp_path)


def test_named_assets_that_lack_a_program_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "etcd", "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    with pytest.raises(LocalFailure, match="has no kube-apiserver"):
        assets()
    made = subprocess.run([TOP / "tools/kube.sh"], capture_output=True, text=True)
    assert made.returncode == 1
    assert f"KUBEBUILDER_ASSETS is {tmp_path}, which has no kube-apiserver" in made.stderr
    assert not (tmp_path / "cache").exists()


def package(path: Path) -> str:
    """A package like the npm one; returns its integrity."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as file:
        for name in ("kubectl", "helm"):
            file.writestr(f"{name}/{name}", f"#!/bin/sh\necho {name}\n")
    with tarfile.open(path, "w:gz") as file:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        file.addfile(entry, io.BytesIO(layer.getvalue()))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_clients_come_out_of_the_package_that_is_pinned(tmp_path: Path) -> None:
    integrity = package(tmp_path / "p.tgz")
    assert clients(tmp_path / "p.tgz", integrity, tmp_path / "out").returncode == 0
    for name in ("kubectl", "helm"):
        assert subprocess.run([tmp_path / "out" / name], capture_output=True, text=True).stdout == f"{name}\n"


def test_another_package_is_refused(tmp_path: Path) -> None:
    package(tmp_path / "p.tgz")
    refused = clients(tmp_path / "p.tgz", "sha512-AAAA", tmp_path / "out")
    assert refused.returncode == 1
    assert "tools/kube.pins says sha512-AAAA" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kubectl", "helm", "why"),
    [
        ("Client Version: v1.32.4", "v3.17.2+gcc0bbbd", ""),
        ("Client Version: v1.27.0", "v3.12.0", ""),
        ("Client Version: v1.26.9", "v3.17.2", "no kubectl 1.27 or newer"),
        ("Client Version: v1.34.5", "v3.9.0", "no helm 3.12 or newer"),
        ("gibberish", "v4.1.4", "no kubectl 1.27 or newer"),
    ],
)
def test_clients_of_the_path_must_be_new_enough(tmp_path: Path, kubectl: str, helm: str, why: str) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/kubectl", kubectl)
    program(tmp_path / "bin/helm", helm)
    found = clients("--from-path", tmp_path / "out", path=f"{tmp_path}/bin:/usr/bin:/bin")
    assert (found.returncode, why in found.stderr) == (1 if why else 0, True)
    if not why:
        assert sorted(os.listdir(tmp_path / "out")) == ["helm", "kubectl"]


def test_clients_that_are_missing_are_named(tmp_path: Path) -> None:
    found = clients("--from-path", tmp_path / "out", path=str(tmp_path))
    assert found.returncode == 1
    assert "there is no kubectl 1.27 or newer on the PATH" in found.stderr
