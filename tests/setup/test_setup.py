"""Set-up of a fresh Debian 12 and 13: it installs, and changes nothing else; a second run is quick."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
TABLE = TOP / "tools" / "packages.txt"

# What runs inside of the fresh system: facts before, set-up, facts after, set-up again. Facts are what a service that
# was enabled or started would show up in.
INSIDE = """
set -eu
facts() {
    (cd / && find etc/systemd etc/rc?.d var/lib/systemd/deb-systemd-helper-enabled -type l -o -name '*.wants' \
        -o -path '*helper-enabled/*' 2>/dev/null | sort) > /result/$1.enabled
    ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o 'socket:.[0-9]*' | grep -o '[0-9]*' > /result/sockets || true
    awk 'NR == FNR { ours[$1]; next } $4 == "0A" && $10 in ours { print $2 }' \
        /result/sockets /proc/net/tcp /proc/net/tcp6 | sort > /result/$1.listening
    ls /sys/class/net | sort > /result/$1.links
    for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done > /result/all
    grep -v -e '^$' -e /inside.sh /result/all | sort > /result/$1.processes || true
    ls -A /etc/systemd/system /usr/sbin/policy-rc.d 2>/dev/null > /result/$1.policy || true
}
rules() { CACHE=/cache /clone/tools/setup.sh --run nft list ruleset > /result/$1.rules; }
facts before
seconds=$(date +%s%N)
CACHE=/cache /clone/tools/setup.sh --group base
facts after
rules after
seconds=$(date +%s%N)
CACHE=/cache /clone/tools/setup.sh --group base 2> /result/again.stderr
echo $(( ($(date +%s%N) - seconds) / 1000000 )) > /result/again.milliseconds
for command in "libvirtd --version" "docker-registry --version" "skopeo --version" "dnsmasq --version" \
        "virsh --version" "qemu-system-x86_64 --version" "qemu-img --version" "mkfs.erofs --help" \
        "veritysetup --version" "crun --version" "umoci --version" "mmdebstrap --version" "genisoimage --version" \
        "id libvirt-qemu"; do
    CACHE=/cache /clone/tools/setup.sh --run $command > /dev/null 2> /result/stderr || {
        echo "$command" >> /result/broken; cat /result/stderr >> /result/broken; }
done
facts end
"""


def rows() -> list[list[str]]:
    lines = TABLE.read_text().splitlines()
    return [line.split(maxsplit=4) for line in lines if line and not line.startswith("#")]


def test_table_is_well_formed() -> None:
    """Every line has a known group and way, a name for each release, and a reason."""
    assert len(rows()) > 20
    for row in rows():
        assert len(row) == 5, row
        assert row[0] in ("base", "test") and row[1] in ("install", "unpack"), row
        assert re.fullmatch(r"[a-z0-9.+-]+", row[2]) and re.fullmatch(r"=|-|[a-z0-9.+-]{2,}", row[3]), row
    names = [row[2] for row in rows() if row[2] != "-"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("release", "column"), [("12", 2), ("13", 3)])
def test_lists_follow_the_release(tmp_path: Path, release: str, column: int) -> None:
    """`--list` gives the names of the release it runs on (here: a faked /etc/os-release by a private mount)."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a private mount")
    fake = tmp_path / "os-release"
    fake.write_text(f'ID=debian\nVERSION_ID="{release}"\n')
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c",
         f'mount --bind {fake} "$(readlink -f /etc/os-release)" && {TOP}/tools/setup.sh --list test unpack'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [row[2] if row[column] == "=" else row[column] for row in rows() if row[1] == "unpack"]
    assert done.stdout.split() == [name for name in expected if name != "-"]


def test_without_root_it_says_what_to_do(tmp_path: Path) -> None:
    """A user who may not install gets the names and the command; `--soft` lets the rest go on."""
    clone = tmp_path / "clone" / "tools"
    clone.mkdir(parents=True)
    shutil.copy(TOP / "tools" / "setup.sh", clone)
    (clone / "packages.txt").write_text("base install no-such-package-at-all = for this test\n")
    command = [str(clone / "setup.sh"), "--group", "base"]
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "CACHE": str(cache)})
    assert done.returncode == 1
    assert "only root can install them: no-such-package-at-all" in done.stderr
    assert "run as root: " in done.stderr and "tools/setup.sh --group base" in done.stderr


@pytest.fixture(params=["bookworm", "trixie"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A root folder with a minimal Debian that has systemd, as a fresh machine would."""
    root = tmp_path / "root"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--include=systemd-sysv,dbus,kmod,util-linux",
         "--aptopt=APT::Install-Recommends \"false\"", request.param, str(root)],
        check=True, timeout=300,
    )  # fmt: skip
    for name in ("clone", "result"):
        (root / name).mkdir()
    shutil.copytree(TOP / "tools", root / "clone" / "tools")
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    (root / "inside.sh").write_text(textwrap.dedent(INSIDE))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.root
@pytest.mark.timeout(900)
def test_only_packages_change(fresh: Path) -> None:
    """Enabled units, listening ports, links, rules and processes are the same before and after."""
    enter = (
        'mount --bind "$0" "$0"; mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc";'
        ' mount -t sysfs -o ro sysfs "$0/sys"; mount -t tmpfs tmpfs "$0/run"; exec chroot "$0" bash /inside.sh'
    )
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "--kill-child",
         "sh", "-c", enter, str(fresh)],
        check=True, timeout=800, stdout=sys.stderr,
    )  # fmt: skip
    result = {p.name: p.read_text().splitlines() for p in (fresh / "result").iterdir()}
    for fact in ("enabled", "listening", "links", "policy", "processes"):
        new = set(result[f"after.{fact}"]) - set(result[f"before.{fact}"])
        # Devices of this project's own tests, which may run at the same time: set-up starts nothing that makes them.
        new = {item for item in new if fact != "links" or not re.match(r"p[pq][0-9a-z]+$|veth|vxlan", item)}
        assert not new, f"set-up added to {fact}: {json.dumps(sorted(new))}"
    assert result["before.enabled"], "the fresh system shows no enabled unit: the comparison would be empty"
    assert result["end.processes"] == result["before.processes"], "set-up left a process running"
    assert result["after.rules"] == rules.splitlines()
    assert result["again.stderr"] == []
    assert int(result["again.milliseconds"][0]) < 1000
    assert "broken" not in result, "\n".join(result["broken"])
