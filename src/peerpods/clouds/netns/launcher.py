"""The first process of an instance: `python -m peerpods.clouds.netns.launcher FOLDER FORWARDER AGENT`.

It starts as pid 1 of its own pid namespace, in its own network namespace. It takes a mount namespace with private /run
and /media, writes the user data where a disk would show it, runs the reader as the VM does, starts forwarder and
agent, keeps their output in a bounded console file, and ends with the forwarder. Standard library only, to start fast.
"""

from __future__ import annotations

import ctypes
import os
import select
import shlex
import subprocess
import sys
from pathlib import Path

CONSOLE_MAX = 1 << 20  # bytes; the older half goes when it is full
_NEWNS = 0x20000
_SLAVE = 0x4000 | 0x80000  # MS_REC | MS_SLAVE: what the node unmounts goes here too, nothing goes back
_DETACH = 2  # MNT_DETACH
_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_LOOK = 0.1  # seconds between looks for ended children


class Console:
    """A file with the newest output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; when the file is full its older half is dropped."""
        if self._file.tell() + len(data) > CONSOLE_MAX:
            kept = self._path.read_bytes()[-CONSOLE_MAX // 2 :]
            draft = self._path.with_suffix(".new")
            draft.write_bytes(kept)
            draft.replace(self._path)
            self._file.close()
            self._file = self._path.open("ab", buffering=0)
        self._file.write(data)

    def say(self, text: str) -> None:
        """A line of our own."""
        self.write(f"netns instance: {text}\n".encode())


def _mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int, what: str) -> None:
        if result:
            raise OSError(ctypes.get_errno(), f"cannot mount {what}")

    resolver = Path("/etc/resolv.conf")
    resolver_text = resolver.read_bytes() if resolver.exists() else b""
    checked(libc.unshare(_NEWNS), "in a namespace of its own")
    checked(libc.mount(b"none", b"/", None, _SLAVE, None), "/ apart from the node's")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("nsfs "):  # a copy of it here would keep a pod's namespace alive
            libc.umount2(left.split()[4].encode().decode("unicode_escape").encode(), _DETACH)
    for place in ("/run", "/media"):
        Path(place).mkdir(exist_ok=True)
        checked(libc.mount(b"tmpfs", place.encode(), b"tmpfs", 0x2, b"mode=0755"), place)
    checked(libc.mount(b"proc", b"/proc", b"proc", _NOSUID_NODEV_NOEXEC, None), "/proc")
    if resolver_text and not resolver.exists():  # it leads into the /run that is now hidden
        target = resolver.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(resolver_text)


def _reader_in_child(folder: Path, console: Console, writing: int) -> bool:
    """The reader's own main, in a forked child rather than a new interpreter: same code, half the time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            source = folder / "user-data"
            place = Path("/media/cidata")
            place.mkdir(mode=0o700)
            with os.fdopen(os.open(place / "user-data", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(source.read_bytes())
            source.unlink()
            from peerpods.userdata.reader import main

            sys.argv = ["peerpods-userdata"]
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            os.write(2, f"user data: {error}\n".encode())
        os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        console.say(f"the user data was not read (status {status})")
    return status == 0


def _start(command: str, service: str, writing: int) -> subprocess.Popen[bytes]:
    words = shlex.split(command) or [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", service]
    return subprocess.Popen(words, cwd="/run", stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)


def main(folder: Path, forwarder: str, agent: str) -> int:
    """Run the instance; returns when it has ended."""
    # By descriptor: the folder's own path may lie below the /run that is about to be hidden.
    folder = Path(f"/proc/self/fd/{os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}")
    console = Console(folder / "console.log")
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        _mounts()
        read = _reader_in_child(folder, console, writing)
        if read:
            first = _start(forwarder, "forwarder", writing).pid
            second = _start(agent, "agent", writing).pid
    except OSError as error:
        console.say(f"not started: {error}")
        return 1
    if not read:
        _copy(reading, console, 0)
        return 1
    while True:
        _copy(reading, console, _LOOK)
        pid, status = os.waitpid(-1, os.WNOHANG)  # also of what the agent left behind: this is pid 1
        if pid == second:
            console.say(f"the agent ended with status {status}")
        if pid == first:
            _copy(reading, console, 0)
            console.say(f"the forwarder ended with status {status}")
            return 1


def _copy(reading: int, console: Console, wait: float) -> None:
    while select.select([reading], [], [], wait)[0]:
        console.write(os.read(reading, 65536))
        wait = 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
