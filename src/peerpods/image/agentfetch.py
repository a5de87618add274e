"""`make fetch-agent`: the pinned kata-agent release, fetched only when asked, checked before it is unpacked.

KATA_AGENT_SHA256 is the digest of the archive here; `make image` takes that of the program, which `run` says."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from peerpods.errors import ConfigError, LocalFailure, Refused
from peerpods.image import build, inputs
from peerpods.image.progress import Progress

ARCHIVE_MAX = 3 << 30  # bytes; the static release has about 1 GB
MEMBER_MAX = 256 << 20  # bytes; the agent has about 40 MB
WAIT = 60.0  # seconds without a byte
PIECE = 1 << 20
NAME = "kata-agent"


@attrs.frozen(kw_only=True)
class Release:
    """Which archive, and what is in it."""

    url: str
    sha256: str
    """Of the archive, lower-case hex."""
    member: str
    """Path of the agent inside."""


def release(arch: str, environment: Mapping[str, str]) -> Release:
    """What to fetch, by the pins and what the environment says instead (KATA_AGENT_URL, _SHA256, _MEMBER). Pure.

    Raises:
        ConfigError: an architecture without release, no digest, or one that is none.
    """
    pins: dict[str, Any] = inputs.DATA["pins"]["kata_agent"]
    if arch not in pins["releases"]:
        raise ConfigError(
            f"ARCH={arch}: there is no kata-agent release for it",
            setting="ARCH",
            remedy="choose one of " + ", ".join(pins["releases"]),
        )
    one = pins["releases"][arch]
    digest = environment.get("KATA_AGENT_SHA256") or one["sha256"]
    if not digest:
        raise ConfigError(
            f"no digest of {one['file']} is pinned",
            setting="KATA_AGENT_SHA256",
            remedy="give KATA_AGENT_SHA256=HEX, as its publisher says; nothing is fetched without",
        )
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError("KATA_AGENT_SHA256 is not 64 lower-case hex digits", setting="KATA_AGENT_SHA256")
    url = environment.get("KATA_AGENT_URL") or f"{pins['origin']}/{pins['version']}/{one['file']}"
    if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
        raise ConfigError(f"KATA_AGENT_URL={url}: only https and http are fetched from", setting="KATA_AGENT_URL")
    return Release(url=url, sha256=digest, member=environment.get("KATA_AGENT_MEMBER") or pins["member"])


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, newurl))
        if after not in ("https", "http") or (before == "https" and after != "https"):
            raise Refused(f"{req.full_url} leads away from https: to {newurl}", remedy="nothing was fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """What fetches: redirects are followed up to five times, and never to less than https."""
    return urllib.request.build_opener(_NoDowngrade, *handlers)


def fetch(
    wanted: Release,
    cache: Path,
    progress: Progress,
    *,
    most: int = ARCHIVE_MAX,
    member_most: int = MEMBER_MAX,
    by: urllib.request.OpenerDirector | None = None,
) -> Path:
    """The agent, in `cache/agent-<sha256 of the archive>/kata-agent`; fetched when it is not there.

    The archive is written beside, compared with the digest, then only the one member is unpacked, then it is removed.

    Raises:
        Refused: wrong digest, too large, member missing or no plain file, a redirect away from https.
        LocalFailure: the network or the disk failed. Nothing is left in either case.
    """
    folder = cache / f"agent-{wanted.sha256}"
    if (folder / NAME).is_file():
        progress.say("it is there already")
        return folder / NAME
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        archive = scratch / "archive"
        with progress.step(f"fetching {wanted.url}"):
            found = _download(wanted.url, archive, most, by or opener())
        if found != wanted.sha256:
            raise Refused(
                f"{wanted.url} has the digest {found}, not {wanted.sha256}",
                remedy="it was thrown away, unopened; ask its publisher which is right",
            )
        with progress.step(f"unpacking {wanted.member}"):
            _unpack(archive, wanted.member, scratch / NAME, member_most)
        archive.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / NAME


def _download(url: str, target: Path, most: int, by: urllib.request.OpenerDirector) -> str:
    """Write it; its SHA-256. Bounded in size, and in time without a byte."""
    sum_, size = hashlib.sha256(), 0
    try:
        with by.open(url, timeout=WAIT) as answer, target.open("wb") as file:
            said = answer.headers.get("Content-Length")
            while piece := answer.read(PIECE):
                size += len(piece)
                if size > most:
                    raise Refused(f"{url} is larger than {most} bytes: not fetched further")
                sum_.update(piece)
                file.write(piece)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise LocalFailure(f"{url} could not be fetched: {reason}", remedy="nothing was kept; try again") from error
    if said is not None and int(said) != size:
        raise LocalFailure(f"{url} was cut off after {size} of {said} bytes", remedy="nothing was kept; try again")
    return sum_.hexdigest()


def _unpack(archive: Path, member: str, target: Path, most: int) -> None:
    """Write the one member, whatever else the archive has; no path of the archive is used as a path here."""
    with archive.open("rb") as file:
        zstd = file.read(4) == b"\x28\xb5\x2f\xfd"
    if not zstd:
        with archive.open("rb") as file:
            return _take(file, "r|*", member, target, most)
    try:
        tool = subprocess.Popen(["zstd", "-q", "-d", "-c", archive], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LocalFailure("zstd is not there", remedy="run `make setup`") from error
    try:
        assert tool.stdout is not None
        return _take(tool.stdout, "r|", member, target, most)
    finally:
        tool.kill()
        tool.communicate()


def _take(stream: IO[bytes], mode: Any, member: str, target: Path, most: int) -> None:
    try:
        with tarfile.open(fileobj=stream, mode=mode) as tar:
            for one in tar:
                if one.name.removeprefix("./") == member:
                    return _write(tar, one, target, most)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Refused(f"the archive cannot be read: {error}") from error
    raise Refused(f"the archive has no {member}", remedy="is it another release than the pinned one?")


def _write(tar: tarfile.TarFile, one: tarfile.TarInfo, target: Path, most: int) -> None:
    content = tar.extractfile(one) if one.isreg() else None
    if content is None:
        raise Refused(f"{one.name} in the archive is no plain file")
    if not 0 < one.size <= most:
        raise Refused(f"{one.name} in the archive has {one.size} bytes, at most {most} are taken")
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, PIECE)
    if target.stat().st_size != one.size:
        raise Refused(f"{one.name} in the archive is cut off")
    target.chmod(0o755)


def add_command(commands: Any) -> None:
    """The command, below those of `python -m peerpods.image`."""
    one = commands.add_parser("fetch-agent", help="fetch the pinned kata-agent release and print where it is")
    one.add_argument("--arch", default="amd64", metavar="ARCH", help="the architecture of the VM [%(default)s]")
    one.add_argument("--cache", type=Path, default=build.default_cache(), metavar="DIR", help="[%(default)s]")
    one.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace, progress: Progress) -> Path:
    """Do it. The digest of the unpacked program, which `make image` wants as KATA_AGENT_SHA256, is said.

    Raises:
        ConfigError, Refused, LocalFailure: in words.
    """
    wanted = release(options.arch, os.environ)
    options.cache.mkdir(parents=True, exist_ok=True)
    agent = fetch(wanted, options.cache, progress)
    progress.say(f"make image KATA_AGENT={agent} KATA_AGENT_SHA256={build.digest(agent)} GUEST_COMPONENTS=DIR")
    return agent
