"""`peerpods run`: plays the kata shim for one container."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import attrs
import click
from twisted.internet.defer import CancelledError, FirstError

from peerpods.cli.node import Node
from peerpods.cli.reacting import fail, run_reactor
from peerpods.cli.session import Outcome, RawTerminal, RunWish, Session, progress
from peerpods.errors import LocalFailure, PeerPodError


class OneLine(click.Command):
    """A command whose own failures, wrong usage among them, are code 125: the other codes are the container's."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click's, but a mistake in the options is one line of reason."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            fail(f"run: {error.format_message()} See peerpods run --help")
            raise


@click.command(cls=OneLine, short_help="Run one container in a new pod, as kata's shim would.")
@click.option("--provider", help="start a private adaptor and relay with this provider, and end them after")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="their TOML file")
@click.option("--socket", default="/run/peerpod/hypervisor.sock", show_default=True, help="the running adaptor's")
@click.option("--name", default="run", show_default=True, help="the pod's name")
@click.option("--namespace", default="default", show_default=True, help="the pod's Kubernetes namespace")
@click.option("--image", default="busybox:latest", show_default=True, help="what the VM pulls and runs")
@click.option("--cpus", type=click.IntRange(0, 1024), default=0, help="the VM's size; 0: the provider's default")
@click.option("--memory", type=click.IntRange(0, 1 << 24), default=0, metavar="MIB", help="likewise, MiB")
@click.option(
    "--netns", type=click.Path(exists=True), help="the pod's network namespace; made and removed if not given"
)
@click.option("--keep", is_flag=True, help="keep the pod after the command's end, until Ctrl-C")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object; the container's output goes to stderr")
@click.option("-i", "stdin", is_flag=True, help="pass standard input on")
@click.option("-t", "terminal", is_flag=True, help="give the container a terminal")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    provider: str | None,
    config: str | None,
    socket: str,
    netns: str | None,
    as_json: bool,
    **wish: Any,
) -> None:
    """Run CMD in a container of a new pod in its own VM, as kata's shim would.

    The exit code is the container's, or 125 with one line of reason when the pod could not be run.
    """
    asked = RunWish(
        name=wish["name"],
        namespace=wish["namespace"],
        image=wish["image"],
        command=wish["command"],
        netns=netns or "",
        vcpus=wish["cpus"],
        memory_mib=wish["memory"],
        stdin=wish["stdin"],
        terminal=wish["terminal"],
        keep=wish["keep"],
    )
    with ExitStack() as cleanup:
        try:
            if provider:
                socket = _private_node(cleanup, provider, config or "")
            if not asked.netns:
                asked = attrs.evolve(asked, netns=_pod_namespace(cleanup))
            outcome = _live(asked, socket, as_json)
        except KeyboardInterrupt:
            cleanup.close()
            fail("interrupted; the pod and its VM were removed", 130)
        except Exception as error:
            cleanup.close()
            cause = _cause(error)
            fail(_reason(cause), 130 if isinstance(cause, CancelledError) else 125)
    if as_json:
        print(json.dumps(attrs.asdict(outcome)))
    sys.exit(outcome.exit_code)


def _private_node(cleanup: ExitStack, provider: str, config: str) -> str:
    node = Node.make(provider, config)
    cleanup.callback(node.stop)
    node.start()
    return node.socket


def _pod_namespace(cleanup: ExitStack) -> str:
    import os

    name = f"peerpods-run-{os.getpid()}"
    cleanup.callback(_podns, "remove", name)
    return _podns("add", name)


def _podns(action: str, name: str) -> str:
    command = [sys.executable, "-m", "peerpods.cli.podns", action, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise LocalFailure(
            f"cannot {action} the pod's network namespace {name}: {last[0]}",
            remedy="this needs root and the right to make network namespaces; or give --netns",
        )
    return done.stdout.strip()


def _writer(stream: Any) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    return write


def _live(asked: RunWish, socket: str, as_json: bool) -> Outcome:
    from peerpods.shim import Hypervisor, Stopwatch

    out = sys.stderr.buffer if as_json else sys.stdout.buffer
    report = (lambda _name, _ms: None) if as_json else progress(sys.stderr)

    async def work(reactor: Any) -> Outcome:
        session = Session(
            reactor=reactor,
            hypervisor=Hypervisor(reactor=reactor, path=socket),
            wish=asked,
            out=_writer(out),
            err=_writer(sys.stderr.buffer),
            watch=Stopwatch(report=report),
            note=lambda text: print(text, file=sys.stderr, flush=True),
        )
        return await session.run()

    with RawTerminal(asked.terminal and asked.stdin):
        return run_reactor(work)


def _cause(error: Exception) -> Exception:
    """What went wrong in the first of several things that were awaited together."""
    while isinstance(error, FirstError):
        error = error.subFailure.value
    return error


def _reason(error: Exception) -> str:
    """An error in words; never a trace for what a user can mend."""
    from twisted.internet.error import ConnectError

    from peerpods.ttrpc import StatusError

    if isinstance(error, CancelledError):
        return "interrupted; the pod and its VM were removed"
    if isinstance(error, ConnectError):
        return f"no adaptor answers on its socket ({error}); start one with twistd, or use --provider NAME"
    if isinstance(error, StatusError):
        return error.status.message or f"the call failed with status {error.status.code}"
    if isinstance(error, (PeerPodError, OSError)):
        return str(error)
    return f"unexpected: {type(error).__name__}: {error}"
