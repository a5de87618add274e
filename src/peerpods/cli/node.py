"""A private adaptor and relay on sockets of their own, for `peerpods run --provider` and the demo."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import attrs

from peerpods.cli.children import Child, socket_answers, twistd
from peerpods.errors import LocalFailure

_START_SECONDS = 30.0


@attrs.define(kw_only=True)
class Node:
    """Where a private node keeps its sockets and state, and its two processes."""

    folder: Path
    provider: str
    config: str = ""
    extra: tuple[str, ...] = ()
    """More flags for the adaptor."""
    relay: Child | None = None
    adaptor: Child | None = None

    @classmethod
    def make(cls, provider: str, config: str = "", extra: tuple[str, ...] = ()) -> Node:
        """A node in a new folder below /run, short enough for socket paths.

        Raises:
            LocalFailure: the folder cannot be made.
        """
        base = "/run" if Path("/run").is_dir() else None
        try:
            folder = Path(tempfile.mkdtemp(prefix="pp-", dir=base))
        except OSError as error:
            raise LocalFailure(
                f"cannot make a folder for a private adaptor and relay below {base}: {error.strerror}",
                remedy="run as root, or use a running adaptor's --socket instead of --provider",
            ) from error
        return cls(folder=folder, provider=provider, config=config, extra=extra)

    @property
    def socket(self) -> str:
        """The hypervisor socket."""
        return str(self.folder / "hypervisor.sock")

    @property
    def admin(self) -> str:
        """The admin socket."""
        return str(self.folder / "admin.sock")

    @property
    def state(self) -> str:
        """The journal's folder."""
        return str(self.folder / "state")

    def start_relay(self) -> None:
        """Start the relay and wait for its control socket."""
        control = self.folder / "relay.sock"
        flags = [f"--control={control}", f"--pods-dir={self.folder}/pods", "--http=", "--log-format=json"]
        self.relay = Child.start("relay", twistd("relay", *flags), self.folder)
        self.relay.wait_until(lambda: socket_answers(control), _START_SECONDS, "its control socket")

    def start_adaptor(self) -> None:
        """Start the adaptor, anew after a kill too, and wait for its socket."""
        flags = [
            f"--provider={self.provider}",
            f"--socket={self.socket}",
            f"--admin={self.admin}",
            f"--pods-dir={self.folder}/pods",
            f"--state-dir={self.state}",
            f"--relay={self.folder}/relay.sock",
            # Its instances carry a name of their own: no other adaptor of this machine takes them for strays.
            f"--cluster={self.folder.name}",
            # A KUBECONFIG in the shell is no reason to write into that cluster; `extra` may say otherwise.
            "--kubernetes=off",
            "--http=",
            "--log-format=json",
            *([f"--config={self.config}"] if self.config else []),
            *self.extra,
        ]
        self.adaptor = Child.start("adaptor", twistd("adaptor", *flags), self.folder)
        self.adaptor.wait_until(lambda: socket_answers(self.socket), _START_SECONDS, "its socket")

    def start(self) -> None:
        """Start both."""
        self.start_relay()
        self.start_adaptor()

    def stop(self) -> None:
        """End both and remove the folder. Idempotent."""
        for child in (self.adaptor, self.relay):
            if child is not None:
                child.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
