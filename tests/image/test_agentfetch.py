"""The kata-agent release: fetched from a loopback server, and every way in which it must not be taken."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import pytest

from peerpods.errors import ConfigError, LocalFailure, PeerPodError, Refused
from peerpods.image import agentfetch, inputs
from peerpods.image.agentfetch import Release, fetch
from peerpods.image.progress import Progress

MEMBER = "opt/kata/bin/kata-agent"
PROGRAM = b"\x7fELF agent" * 5000
QUIET = Progress(quiet=True)


def archive(compress: bool, members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    if not compress:
        return out.getvalue()
    return subprocess.run(
        ["zstd", "-q", "-c"], input=out.getvalue(), capture_output=True, check=True, timeout=30
    ).stdout


MEMBERS = {"../../evil": b"x", MEMBER: PROGRAM, "/etc/passwd": b"y"}
GOOD = archive(True, MEMBERS)


@attrs.define
class Site:
    """What the server gives."""

    address: str
    body: bytes = GOOD
    said: int | None = None
    location: str = ""
    asked: int = 0

    def release(self, **changed: str) -> Release:
        digest = hashlib.sha256(self.body).hexdigest()
        return Release(**{"url": f"{self.address}/agent", "sha256": digest, "member": MEMBER, **changed})


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            if found.location and self.path == "/agent":
                self.send_response(302)
                self.send_header("Location", found.location)
                self.end_headers()
                return
            self.send_response(200 if self.path in ("/agent", "/moved") else 404)
            self.send_header("Content-Length", str(found.said or len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize("compress", [True, False])
def test_the_one_member_is_taken_and_kept(site: Site, tmp_path: Path, compress: bool) -> None:
    site.body = archive(compress, MEMBERS)
    wanted = site.release()
    agent = fetch(wanted, tmp_path, QUIET)
    assert agent == tmp_path / f"agent-{wanted.sha256}" / "kata-agent"
    assert agent.read_bytes() == PROGRAM and agent.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in agent.parent.iterdir()] == ["kata-agent"]
    assert [path.name for path in tmp_path.iterdir()] == [agent.parent.name]
    assert fetch(wanted, tmp_path, QUIET) == agent and site.asked == 1


def test_a_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    site.location = "/moved"
    assert fetch(site.release(), tmp_path, QUIET).read_bytes() == PROGRAM


def refused(
    site: Site,
    place: Path,
    words: str,
    kind: type[PeerPodError] = Refused,
    most: int = 1 << 20,
    member_most: int = 1 << 20,
    **changed: str,
) -> None:
    with pytest.raises(kind, match=words):
        fetch(site.release(**changed), place, QUIET, most=most, member_most=member_most)
    assert list(place.iterdir()) == []


def test_another_digest_is_thrown_away_unopened(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentfetch, "_unpack", lambda *_: pytest.fail("unpacked before the digest was compared"))
    refused(site, tmp_path, "has the digest", sha256="0" * 64)


def test_a_cut_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.said = len(site.body) + 100
    refused(site, tmp_path, "cut off", LocalFailure)


def test_too_large_is_not_fetched_to_its_end(site: Site, tmp_path: Path) -> None:
    refused(site, tmp_path, "larger than 100 bytes", most=100)
    refused(site, tmp_path, "at most 1000 are taken", member_most=1000)


def test_what_is_not_there(site: Site, tmp_path: Path) -> None:
    refused(site, tmp_path, "could not be fetched", LocalFailure, url=f"{site.address}/other")
    refused(site, tmp_path, "could not be fetched", LocalFailure, url="http://127.0.0.1:1/agent")


def test_a_member_that_is_missing_or_no_plain_file(site: Site, tmp_path: Path) -> None:
    refused(site, tmp_path, "has no usr/bin/kata-agent", member="usr/bin/kata-agent")
    link = tarfile.TarInfo(MEMBER)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
    site.body = archive(True, {"link": link})
    refused(site, tmp_path, "no plain file")


@pytest.mark.parametrize("body", [GOOD[: len(GOOD) // 2], b"\x28\xb5\x2f\xfdjunk", b"no archive", b"\x1f\x8bjunk"])
def test_a_damaged_archive_with_the_right_digest(site: Site, tmp_path: Path, body: bytes) -> None:
    site.body = body
    refused(site, tmp_path, "cannot be read|cut off|has no")


@pytest.mark.parametrize("target", ["http://127.0.0.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_away_from_https_is_refused(target: str) -> None:
    request = urllib.request.Request("https://release.example/agent")
    with pytest.raises(Refused, match="leads away from https"):
        agentfetch._NoDowngrade().redirect_request(request, io.BytesIO(), 302, "Found", {}, target)
    after = agentfetch._NoDowngrade().redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://b.example/x")
    assert after.full_url == "https://b.example/x"


def test_a_redirect_from_http_to_a_file_is_refused(site: Site, tmp_path: Path) -> None:
    site.location = "file:///etc/passwd"
    refused(site, tmp_path, "leads away|could not be fetched", PeerPodError)


def test_the_pins_and_the_environment_decide() -> None:
    pins = inputs.DATA["pins"]["kata_agent"]
    found = agentfetch.release("amd64", {"KATA_AGENT_SHA256": "a" * 64})
    assert found.url == f"{pins['origin']}/{pins['version']}/{pins['releases']['amd64']['file']}"
    assert found.url.startswith("https://")
    assert (found.member, found.sha256) == (pins["member"], "a" * 64)
    own = {"KATA_AGENT_SHA256": "b" * 64, "KATA_AGENT_URL": "https://e.example/a", "KATA_AGENT_MEMBER": "usr/bin/x"}
    assert agentfetch.release("s390x", own) == Release(url="https://e.example/a", sha256="b" * 64, member="usr/bin/x")


@pytest.mark.parametrize(
    ("arch", "environment", "words"),
    [
        ("riscv64", {"KATA_AGENT_SHA256": "a" * 64}, "no kata-agent release"),
        ("amd64", {"KATA_AGENT_SHA256": "A" * 64}, "lower-case hex"),
        ("amd64", {"KATA_AGENT_SHA256": "a" * 64, "KATA_AGENT_URL": "file:///x"}, "only https and http"),
    ],
)
def test_wrong_settings_are_one_line(arch: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        agentfetch.release(arch, environment)
    assert "\n" not in str(raised.value)


def test_nothing_is_fetched_without_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inputs.DATA["pins"]["kata_agent"]["releases"]["amd64"], "sha256", None)
    with pytest.raises(ConfigError, match="no digest of"):
        agentfetch.release("amd64", {})
