"""Debian 13 packages on any host: found, checked by signature and digest, and unpacked; never installed or run through
their maintainer scripts. Needs no root and leaves the host's own package system alone."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from peerpods.errors import ConfigError, LocalFailure
from peerpods.image import inputs
from peerpods.image.run import need, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT = Path("/etc/apt")
PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb", "tar", "sh")
"""What must be on the host."""
_UNPACK = 'dpkg-deb --fsys-tarfile "$0" | tar -xpv --keep-directory-symlink --no-same-owner -C "$1" -f -'
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<hash>\S*)$", re.M)


def archives(sources: Iterable[str]) -> dict[str, str]:
    """The Debian archives that a host's apt uses: "debian" and "debian-security" to their addresses. Pure.

    Args:
        sources: the texts of sources.list and of its parts, one-line or deb822. The first address of a kind counts;
            an archive without a security address of its own is taken to serve both, as the common mirrors do.

    Raises:
        ConfigError: when no address ends in /debian.
    """
    found: dict[str, str] = {}
    for text in sources:
        for line in text.splitlines():
            if not re.match(r"(deb|URIs:)\s", line):
                continue
            for address in re.findall(r"https?://[^\s\]]+", line):
                kind = address.rstrip("/").rpartition("/")[2]
                if kind in ("debian", "debian-security"):
                    found.setdefault(kind, address.rstrip("/"))
    if "debian" not in found:
        raise ConfigError(
            "the apt sources of this machine name no Debian archive over http",
            remedy="the image is built from Debian 13 packages: name an archive that ends in /debian in /etc/apt",
        )
    found.setdefault("debian-security", found["debian"] + "-security")
    return found


def _host_sources() -> list[str]:
    paths = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    return [path.read_text() for path in paths if path.suffix in (".list", ".sources") and path.is_file()]


@attrs.frozen(order=True)
class Listed:
    """One binary package as the signed lists have it: its .deb must have this digest."""

    name: str
    version: str
    sha256: str

    def lock_line(self) -> str:
        """Its line in packages.lock."""
        return f"{self.name} {self.version} {self.sha256}"


@attrs.frozen(order=True)
class Package(Listed):
    """One binary package that was fetched: its digest is what apt verified."""

    file: Path = attrs.field(order=False)


@attrs.frozen
class Archive:
    """An apt of our own below `folder`, for Debian 13 whatever the host is."""

    folder: Path
    architecture: str = "amd64"
    """Debian's name of it; the host may be another, since nothing of a package runs."""
    kinds: tuple[str, ...] = ("deb",)
    """With "deb-src" the lists of source packages are read too."""
    suites: Sequence[Sequence[str]] = tuple(map(tuple, inputs.SUITES))
    """Kind of archive and suite, of each list that is read."""
    pins: Sequence[Listed] = ()
    """Versions that are chosen whatever newer ones there are; one that the archive does not have is passed over."""

    def update(self) -> None:
        """Read the package lists anew.

        Raises:
            ConfigError: the host names no archive.
            LocalFailure: apt or the archive's key is not there, or the archive cannot be read.
        """
        need(PROGRAMS)
        if not Path(KEYRING).exists():
            raise LocalFailure(f"{KEYRING} is not there", remedy="install debian-archive-keyring")
        addresses = archives(_host_sources())
        self._configure(addresses)
        try:
            self._apt("apt-get", "update", "-qq", "--error-on=any")
        except LocalFailure as error:
            raise LocalFailure(
                f"the Debian archive {addresses['debian']} cannot be read: {error.message}",
                remedy="check the network, the proxy and the sources in /etc/apt",
            ) from error

    @property
    def _settings(self) -> Path:
        """apt's configuration: another one with pins, so that two builds share the folder."""
        return self.folder / ("pinned.conf" if self.pins else "apt.conf")

    def _configure(self, addresses: dict[str, str]) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text("")
        sources = [
            f"{kind} [signed-by={KEYRING}] {addresses[path]} {suite} {inputs.COMPONENT}\n"
            for kind in self.kinds
            for path, suite in self.suites
        ]
        (self.folder / "sources.list").write_text("".join(sources))
        here = self.folder
        self._settings.write_text(
            f'Dir::State "{here}/state"; Dir::State::status "{here}/status"; Dir::Cache "{here}/cache";\n'
            f'Dir::Etc "{here}/etc"; Dir::Etc::SourceList "{here}/sources.list"; Dir::Etc::SourceParts "/dev/null";\n'
            f'Dir::Etc::Preferences "{self._settings}.pins"; Dir::Etc::Parts "{here}/etc/apt.conf.d";\n'
            f'Dir::Etc::PreferencesParts "{here}/etc/preferences.d";\n'
            f'APT::Architecture "{self.architecture}"; APT::Architectures {{ "{self.architecture}"; }};\n'
            'APT::Install-Recommends "false";\n'
            'APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "3";\n'
        )
        Path(f"{self._settings}.pins").write_text(
            "".join(f"Package: {pin.name}\nPin: version {pin.version}\nPin-Priority: 1001\n\n" for pin in self.pins)
        )

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        return run(command, environment={"APT_CONFIG": str(self._settings)}, cwd=cwd)

    def closure(self, names: Sequence[str], dropped: Collection[str] = ()) -> list[str]:
        """The packages and what they depend on, sorted, without `dropped`."""
        out = self._apt("apt-get", "-s", "-qq", "install", *names)
        found = {line.split()[1].split(":")[0] for line in out.splitlines() if line.startswith("Inst ")}
        return sorted(found - set(dropped))

    def kernel_package(self) -> str:
        """The package behind the kernel's meta package."""
        out = self._apt("apt-cache", "depends", "--important", inputs.KERNEL)
        found = re.search(r"Depends: (linux-image-\S+)", out)
        if not found:
            raise LocalFailure(f"{inputs.KERNEL} names no kernel package")
        return found.group(1)

    def resolve(self, names: Iterable[str]) -> list[Listed]:
        """What `fetch` would bring, sorted by name, from the signed lists alone: nothing is downloaded.

        Raises:
            LocalFailure: a package is not there, or the lists have no SHA-256 of it.
        """
        found = []
        for name, entry in sorted(self.listed(sorted(names)).items()):
            kind, _, digest = entry["hash"].partition(":")
            if kind != "SHA256":
                raise LocalFailure(f"the package lists have no SHA-256 of {name}")
            found.append(Listed(name, _version(entry["file"]), digest))
        lost = sorted(set(names) - {one.name for one in found})
        if lost:
            raise LocalFailure(f"the archive has no package {', '.join(lost)}")
        return found

    def stanzas(self, names: Collection[str]) -> list[dict[str, str]]:
        """All versions of packages as the lists describe them: fields of one line, by their names."""
        wanted, found = set(names), []
        for file in sorted((self.folder / "state/lists").glob("*_Packages")):
            for stanza in file.read_text().split("\n\n"):
                head = stanza.lstrip("\n").partition("\n")[0]
                if head.removeprefix("Package: ") in wanted:
                    rows = (line.partition(": ") for line in stanza.splitlines())
                    found.append({key: value for key, _, value in rows if value and not key.startswith(" ")})
        return found

    def listed(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """What the signed lists say of packages: `uri`, `file`, `size` and `hash` by package name."""
        # asked from another folder: apt is silent about files that are in the current one
        text = self._apt("apt-get", "download", "--print-uris", *names, cwd=self.folder)
        return {entry["file"].split("_")[0]: entry for entry in (m.groupdict() for m in _URI.finditer(text))}

    def fetch(self, names: Iterable[str]) -> list[Package]:
        """The .deb files, from the cache or the mirror, each checked against the signed lists; sorted by name."""
        wanted = sorted(names)
        debs = self.folder / "debs"
        debs.mkdir(exist_ok=True)
        by_name = self.listed(wanted)
        missing = [name for name in wanted if name not in by_name or not (debs / by_name[name]["file"]).exists()]
        if missing:
            # elsewhere, since a download that is cut off must not look like a package
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="download-") as folder:
                self._apt("apt-get", "download", "-qq", *missing, cwd=Path(folder))
                for file in Path(folder).iterdir():
                    file.rename(debs / file.name)
        packages = []
        for name in wanted:
            file = debs / by_name[name]["file"]
            packages.append(Package(name, _version(file.name), checked(file, by_name[name]["hash"]), file))
        return packages


def _version(file: str) -> str:
    return file.split("_")[1].replace("%3a", ":")


def checked(file: Path, expected: str) -> str:
    """SHA-256 of a file, in hex, after comparing with `SHA256:HEX`, `SHA512:HEX` or `MD5Sum:HEX` as apt prints it.

    Raises:
        LocalFailure: when it differs; the file is removed, so that the next run fetches it again.
    """
    data = file.read_bytes()
    kind, _, value = expected.partition(":")
    algorithm = {"SHA256": "sha256", "SHA512": "sha512", "MD5Sum": "md5"}.get(kind)
    if algorithm and hashlib.new(algorithm, data).hexdigest() != value:
        file.unlink()
        raise LocalFailure(f"{file.name} is damaged", remedy="removed; run it again")
    return hashlib.sha256(data).hexdigest()


def unpack(packages: Sequence[Package], root: Path) -> dict[str, list[str]]:
    """Lay the packages' files below `root`, new or empty, which becomes a merged-/usr tree; each one's files by name.

    Names are relative to `root`, as the package has them: /bin and /lib may still be without /usr.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "usr").mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")

    def one(package: Package) -> list[str]:
        # tar, since `dpkg-deb -x` would replace the links of the merged /usr by folders
        out = run(["sh", "-c", _UNPACK, package.file, root], name=f"unpacking {package.file.name}")
        return [line.removeprefix("./") for line in out.splitlines() if not line.endswith("/")]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((package.name for package in packages), pool.map(one, packages), strict=True))
