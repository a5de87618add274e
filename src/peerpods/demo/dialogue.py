"""Talking with a command line by line, each answer awaited for a bounded time."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from types import TracebackType

import attrs

from peerpods.demo.checks import Broken


@attrs.define
class Dialogue:
    """A process whose standard input we write and whose output lines we await. A context manager: ends the process."""

    process: subprocess.Popen[str]
    _lines: queue.Queue[str | None] = attrs.field(factory=lambda: queue.Queue(10000))
    heard: list[str] = attrs.field(factory=list)

    @classmethod
    def start(cls, command: list[str]) -> Dialogue:
        """Start the command; its standard error goes where ours goes."""
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        dialogue = cls(process)
        threading.Thread(target=dialogue._listen, daemon=True).start()
        return dialogue

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(f"    | {line.rstrip()}", flush=True)
            self._lines.put(line.rstrip("\r\n"))
        self._lines.put(None)

    def expect(self, text: str, seconds: float) -> None:
        """Await a line that is exactly this text.

        Raises:
            Broken: when the process ends or the time is over before.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise Broken(f"{text!r} did not come within {seconds:g} s; last: {self.heard[-3:]}") from None
            if line is None:
                raise Broken(f"the command ended before it said {text!r}; last: {self.heard[-3:]}")
            self.heard.append(line)
            if line == text:
                return

    def ask(self, line: str, answer: str, seconds: float = 20) -> bool:
        """Write one line and await the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.expect(answer, seconds)
        return True

    def close_stdin(self) -> None:
        """End of input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, seconds: float) -> int:
        """The exit code, awaited for a bounded time."""
        return self.process.wait(seconds)

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
