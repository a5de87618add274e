"""A private container registry with a tiny image, for the demo and the tests: no network, no account, no trace.

The image is built here from a static busybox: one layer, the same bytes each time. The registry is Debian's
`docker-registry` with its files in a scratch folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from peerpods.errors import LocalFailure

APPLETS = (
    *("[", "arch", "base64", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "du"),
    *("echo", "env", "expr", "false", "find", "free", "grep", "head", "hostname", "httpd", "id", "ifconfig", "ip"),
    *("kill", "ln", "ls", "mkdir", "mktemp", "mount", "mv", "nc", "netstat", "nslookup", "ping", "ping6", "printenv"),
    *("printf", "ps", "pwd", "readlink", "rm", "rmdir", "route", "sed", "seq", "sh", "sha256sum", "sleep", "sort"),
    *("stat", "stty", "sync", "tail", "tar", "tee", "telnet", "test", "time", "timeout", "touch", "tr", "true", "tty"),
    *("umount", "uname", "uniq", "uptime", "vi", "wc", "wget", "which", "whoami", "xargs", "yes"),
)
START_SECONDS = 15.0
PUSH_SECONDS = 60.0
STOP_SECONDS = 5.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "s390x": "s390x", "ppc64le": "ppc64le"}


def _layer(busybox: bytes) -> bytes:
    """The image's files as a tar: owner root, time 0, sorted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            tar.addfile(entry, io.BytesIO(data))

        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"):
            add(folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755)
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox)
        for applet in APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        add("etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\nnobody:x:65534:\n")
        add(
            "etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
        )
        add("usr/bin", tarfile.SYMTYPE, 0o777, link="../bin")
    return out.getvalue()


def _blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def build_busybox_image(folder: Path, busybox: Path) -> Path:
    """Build the image as an OCI layout `folder/busybox` with the tag `latest`; gives the layout's path.

    Args:
        busybox: a statically linked busybox (Debian: package busybox-static).

    Raises:
        LocalFailure: when busybox is missing or needs libraries.
    """
    try:
        program = busybox.read_bytes()
    except OSError as error:
        raise LocalFailure(f"cannot read {busybox}: {error.strerror}", remedy="install busybox-static") from error
    if b"/ld-linux" in program[:4096] or b"/ld64" in program[:4096]:
        raise LocalFailure(f"{busybox} is not statically linked", remedy="install busybox-static instead of busybox")
    layout = folder / "busybox"
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    tar = _layer(program)
    kind = "application/vnd.oci.image."
    layer = _blob(layout, gzip.compress(tar, 6, mtime=0), kind + "layer.v1.tar+gzip")
    config = {
        "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    config_blob = _blob(layout, json.dumps(config, sort_keys=True).encode(), kind + "config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "manifest.v1+json",
        "config": config_blob,
        "layers": [layer],
    }
    entry = _blob(layout, json.dumps(manifest, sort_keys=True).encode(), kind + "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}, sort_keys=True))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def _command(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise LocalFailure(f"{name} is not installed", remedy=f"apt-get install {name}")
    return path


def _environment() -> dict[str, str]:
    # The registry is on this machine: no proxy between.
    return {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy")}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


class Registry:
    """One registry process, plain HTTP. `start`, `push` as often as wanted, `stop`.

    All three block (for milliseconds; a push for as long as it takes): for the demo and for tests, not for services.

    Args:
        folder: where its files go; made by `start`, removed by `stop`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        """HOST:PORT as image references have it; "" before `start`."""

    @property
    def pid(self) -> int:
        """The process, while it runs; 0 otherwise."""
        return self._process.pid if self._process is not None else 0

    def start(self, address: str, port: int) -> str:
        """Serve on an address (IPv6 without brackets) and port; gives HOST:PORT once it answers.

        Raises:
            LocalFailure: when it cannot be started, with its own last line, or does not answer in time.
        """
        host = f"[{address}]" if ":" in address else address
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "config.yml"
        # JSON is YAML too.
        facts = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            "http": {"addr": f"{host}:{port}", "secret": "only-for-uploads-of-one-process"},
        }
        config.write_text(json.dumps(facts))
        with (self._folder / "words").open("wb") as words:
            self._process = subprocess.Popen(
                [_command("docker-registry"), "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env=_environment(),
                cwd=self._folder,
            )
        try:
            self._wait_until_it_answers(address, port)
        except BaseException:
            self.stop()
            raise
        self.address = f"{host}:{port}"
        return self.address

    def _wait_until_it_answers(self, address: str, port: int) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                said = _last_line((self._folder / "words").read_text(errors="replace"))
                raise LocalFailure(f"docker-registry cannot serve on {address}:{port}: {said}")
            try:
                socket.create_connection((address, port), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise LocalFailure(f"docker-registry does not answer on {address}:{port} after {START_SECONDS:.0f} s")

    def push(self, layout: Path, name: str) -> str:
        """Push an OCI layout's `latest` under a name such as "demo/busybox:1"; gives the image reference.

        Raises:
            LocalFailure: with skopeo's last line.
        """
        reference = f"{self.address}/{name}"
        argv = [_command("skopeo"), "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        argv += [f"oci:{layout}:latest", f"docker://{reference}"]
        try:
            result = subprocess.run(
                argv, capture_output=True, text=True, timeout=PUSH_SECONDS, env=_environment(), check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LocalFailure(f"pushing {reference} took more than {PUSH_SECONDS:.0f} s") from error
        if result.returncode != 0:
            raise LocalFailure(f"cannot push {reference}: {_last_line(result.stderr)}")
        return reference

    def stop(self) -> None:
        """End the process and remove its files. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.address = ""
        shutil.rmtree(self._folder, ignore_errors=True)


def start_registry(folder: Path, address: str, port: int) -> Registry:
    """A started `Registry` with its files in a folder."""
    registry = Registry(folder)
    registry.start(address, port)
    return registry
