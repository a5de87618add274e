"""Namespaces for tests: made at files of the test's own folder, removed with it. The host's links stay untouched."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from peerpods.podnet import kernel

T = TypeVar("T")


def in_ns(path: Path | str, action: Callable[[], T]) -> T:
    """Run something in a namespace, in a thread that ends with it."""
    box: list[Any] = []

    def body() -> None:
        try:
            with kernel.inside(str(path)):
                box.append((True, action()))
        except BaseException as error:
            box.append((False, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(60)
    good, value = box[0]
    if not good:
        raise value
    return value


@attrs.define
class Space:
    """One network namespace."""

    path: Path

    def run(self, *command: str) -> str:
        """A command in it; its output."""
        full = ["nsenter", f"--net={self.path}", *command]
        done = subprocess.run(full, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, line: str) -> str:
        """`ip LINE` in it."""
        return self.run("ip", *line.split())

    def do(self, action: Callable[[], T]) -> T:
        """Python in it."""
        return in_ns(self.path, action)

    def counters(self, device: str) -> tuple[int, int]:
        """(received, sent) packets of a device."""
        (facts,) = json.loads(self.ip(f"-j -s link show {device}"))
        return facts["stats64"]["rx"]["packets"], facts["stats64"]["tx"]["packets"]


@attrs.define
class Spaces:
    """Makes namespaces in one folder."""

    folder: Path
    made: list[Space] = attrs.Factory(list)

    def new(self, name: str) -> Space:
        """A namespace with `lo` up."""
        path = self.folder / name
        path.touch()
        subprocess.run(["unshare", f"--net={path}", "true"], check=True, timeout=30)
        space = Space(path)
        self.made.append(space)
        space.ip("link set lo up")
        return space

    def remove(self, space: Space) -> None:
        """It is gone, as when its pod is removed."""
        subprocess.run(["umount", str(space.path)], check=True, timeout=30)
        space.path.unlink()
        self.made.remove(space)

    def close(self) -> None:
        """All of them, and those that others mounted in the folder."""
        for path in sorted(self.folder.iterdir()):
            subprocess.run(["umount", str(path)], check=False, capture_output=True, timeout=30)


class Inline:
    """In place of a reactor: answers are taken on the thread that brings them."""

    def callFromThread(self, action: Callable[..., None], *arguments: Any) -> None:
        action(*arguments)


def wait(coroutine: Any) -> Any:
    """The result of a coroutine whose answers come from a thread (see `Inline`)."""
    box: list[Any] = []
    done = threading.Event()

    def arrived(result: Any) -> None:
        box.append(result)
        done.set()

    Deferred.fromCoroutine(coroutine).addBoth(arrived)
    assert done.wait(60)
    if isinstance(box[0], Failure):
        box[0].raiseException()
    return box[0]
