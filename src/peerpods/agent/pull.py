"""Images pulled inside the VM: skopeo fetches into one OCI layout, umoci unpacks; containers get overlays.

Blobs and unpacked roots are kept for the life of the VM, by digest. What the VM was told at birth steers the pull:

`/run/peerpod/auth.json`: credentials, in the format of containers-auth.json(5).
`/run/peerpod/registries.json`: registries that are not plain public HTTPS, in our own format:

    {"insecure": ["10.0.0.1:5000"],              plain HTTP, or HTTPS whose certificate is not checked
     "ca": {"registry.lan:5000": "-----BEGIN…"}}  certificate authorities, PEM, for one host

Hosts are written as in the image reference. Neither key is required.
"""

# ruff: noqa: ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import DeferredLock

from peerpods.agent.command import CommandFailed, CommandTimeout, run
from peerpods.errors import GuestError

PULL_SECONDS = 600.0
"""Longest pull, unpacking included, when the caller sets no deadline."""
AUTH = "/run/peerpod/auth.json"
REGISTRIES = "/run/peerpod/registries.json"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TIME = re.compile(r'time="[^"]*" level=\w+ msg="(?P<words>(?:[^"\\]|\\.)*)"')


@attrs.frozen
class Registries:
    """Registries with rules of their own."""

    insecure: frozenset[str] = frozenset()
    ca: Mapping[str, str] = {}


def parse_registries(text: str) -> Registries:
    """Read registries.json.

    Raises:
        GuestError: when it is not as the module's docstring says.
    """
    try:
        value = json.loads(text)
        insecure, ca = value.get("insecure", []), value.get("ca", {})
        if not all(isinstance(host, str) for host in [*insecure, *ca, *ca.values()]):
            raise TypeError("hosts and certificates are text")  # noqa: TRY301
    except (ValueError, TypeError, AttributeError) as error:
        raise GuestError(
            f"registries.json is not understood: {error}",
            remedy='write {"insecure": ["host:port"], "ca": {"host:port": "PEM"}}',
        ) from error
    return Registries(frozenset(insecure), dict(ca))


def registry_of(reference: str) -> str:
    """Host (and port) of an image reference; docker.io when it names none."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "docker.io"


def copy_arguments(
    reference: str, layout: Path, tag: str, registries: Registries, *, auth: str | None, ca_folder: str | None
) -> list[str]:
    """The skopeo command that fetches an image into an OCI layout under a tag."""
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet"]
    if auth is not None:
        argv += ["--src-authfile", auth]
    if registry_of(reference) in registries.insecure:
        argv += ["--src-tls-verify=false"]
    if ca_folder is not None:
        argv += ["--src-cert-dir", ca_folder]
    return [*argv, "--", f"docker://{reference}", f"oci:{layout}:{tag}"]


def skopeo_words(output: str) -> str:
    """What skopeo had to say about its failure, without its log format."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "skopeo said nothing"
    match = _TIME.search(lines[-1])
    if match is None:
        return lines[-1][:1000]
    return match["words"].replace('\\"', '"').replace("\\\\", "\\")[:1000]


def free_mib(folder: Path) -> int:
    """Free space of a folder's filesystem."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize >> 20


def failure(reference: str, output: str, folder: Path) -> GuestError:
    """The error for an image that could not be pulled or unpacked, in the tool's own words."""
    words = skopeo_words(output)
    if "no space left on device" in output.lower() or "disk quota exceeded" in output.lower():
        return GuestError(
            f"no room for image {reference} in the VM ({free_mib(folder)} MiB free in {folder}): {words}",
            remedy="give the pod more memory or a smaller image",
        )
    return GuestError(f"cannot pull image {reference}: {words}")


class ImageStore:
    """The images of one VM, below one folder."""

    def __init__(self, reactor: Any, folder: Path, *, auth: str = AUTH, registries: str = REGISTRIES) -> None:
        self._reactor = reactor
        self._folder = folder
        self._layout = folder / "oci"
        self._auth = auth
        self._registries = registries
        # One at a time: skopeo does not guard a layout's index against a second one.
        self._turn = DeferredLock()

    async def rootfs(self, reference: str, timeout: float | None) -> Path:
        """The unpacked root of an image, not to be written to. Pulls what is missing.

        Raises:
            GuestError: registry, image, space or time, in words.
        """
        limit = PULL_SECONDS if timeout is None else max(1.0, min(PULL_SECONDS, timeout - 1.0))
        end = self._reactor.seconds() + limit
        await self._turn.acquire()
        try:
            return await self._rootfs(reference, end)
        finally:
            self._turn.release()

    async def _rootfs(self, reference: str, end: float) -> Path:
        for name in ("oci", "roots", "tmp", "certs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        tag = hashlib.sha256(reference.encode()).hexdigest()[:32]
        try:
            await self._fetch(reference, tag, end)
            digest = digest_of(self._layout, tag)
            root = self._folder / "roots" / digest
            if not root.exists():
                await self._unpack(reference, tag, root, end)
        except CommandTimeout as error:
            raise GuestError(
                f"image {reference} was not there in time ({error.message})",
                remedy="is the registry reachable from the VM? Raise create_container_timeout for large images",
            ) from error
        except CommandFailed as error:
            raise failure(reference, error.output, self._folder) from error
        except OSError as error:
            raise failure(reference, f"{error.strerror or error}", self._folder) from error
        return root

    def _environment(self) -> dict[str, str]:
        # Large blobs pass through TMPDIR: keep them out of a small or read-only /var/tmp.
        return {**os.environ, "TMPDIR": str(self._folder / "tmp"), "HOME": str(self._folder / "tmp")}

    def _left(self, end: float) -> float:
        return float(max(1.0, end - self._reactor.seconds()))

    async def _fetch(self, reference: str, tag: str, end: float) -> None:
        registries = Registries()
        if Path(self._registries).exists():
            registries = parse_registries(Path(self._registries).read_text())
        host = registry_of(reference)
        ca_folder = None
        if host in registries.ca:
            ca_folder = self._folder / "certs" / hashlib.sha256(host.encode()).hexdigest()[:16]
            ca_folder.mkdir(exist_ok=True)
            (ca_folder / "ca.crt").write_text(registries.ca[host])
        argv = copy_arguments(
            reference,
            self._layout,
            tag,
            registries,
            auth=self._auth if Path(self._auth).exists() else None,
            ca_folder=str(ca_folder) if ca_folder else None,
        )
        await run(self._reactor, argv, timeout=self._left(end), env=self._environment())

    async def _unpack(self, reference: str, tag: str, root: Path, end: float) -> None:
        # Under another name first: a root that exists is whole.
        partial = root.with_suffix(".partial")
        await run(self._reactor, ["rm", "-rf", "--", str(partial)], timeout=60)
        argv = ["umoci", "raw", "unpack", "--image", f"{self._layout}:{tag}", str(partial)]
        try:
            await run(self._reactor, argv, timeout=self._left(end), env=self._environment())
        except BaseException:
            await run(self._reactor, ["rm", "-rf", "--", str(partial)], timeout=60)
            raise
        partial.rename(root)


def digest_of(layout: Path, tag: str) -> str:
    """Hexadecimal digest of the manifest that a layout has under a tag.

    Raises:
        GuestError: when the layout has no such tag.
    """
    index = json.loads((layout / "index.json").read_text())
    for entry in index.get("manifests", []):
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            match = _DIGEST.fullmatch(entry.get("digest", ""))
            if match is not None:
                return match[1]
    raise GuestError(f"the pulled image is not in the layout {layout}")
