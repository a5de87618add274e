"""`peerpods ps`, `inspect` and `console`: what the adaptor, or else its journal, says of the sandboxes."""

from __future__ import annotations

import errno
import json
import sys
import time
from typing import Any

import click

from peerpods.cli.reacting import fail, run_reactor
from peerpods.protocols import admin_pb2

_ADMIN = "peerpods.v1.Admin"
_STEPS = ("create_vm", "launch", "address", "tunnel", "link")  # a protobuf map has no order
_socket = click.option(
    "--socket", default="/run/peerpod/admin.sock", show_default=True, help="the adaptor's admin socket"
)
_state = click.option(
    "--state-dir",
    default="/var/lib/peerpods",
    show_default=True,
    help="where the journal lies, read when nobody answers",
)
_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs")


class Unanswered(Exception):
    """Nobody listens on the admin socket, or this user may not dial it; the text says which."""


def unanswered(path: str, error: Exception) -> str:
    """Why the admin socket gave no answer."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to dial {path}: run as root"
    return f"no adaptor answers on {path}"


def ask(path: str, method: str, request: Any, answer: type[Any]) -> Any:
    """One call of the admin service.

    Raises:
        Unanswered: when no adaptor runs there.
        StatusError: what the adaptor says against it.
    """
    from twisted.internet.endpoints import UNIXClientEndpoint
    from twisted.internet.error import ConnectError

    from peerpods.ttrpc import connect_client

    async def work(reactor: Any) -> Any:
        try:
            client = await connect_client(reactor, UNIXClientEndpoint(reactor, path))
        except (ConnectError, OSError) as error:
            raise Unanswered(unanswered(path, error)) from None
        try:
            return await client.call(_ADMIN, method, request, answer, timeout=10.0)
        finally:
            await client.close()

    return run_reactor(work)


def sandbox_object(found: admin_pb2.Sandbox) -> dict[str, Any]:
    """The JSON object of one sandbox; without Kubernetes it has neither pod_uid nor peer_pod."""
    return {
        "sandbox": found.sandbox,
        "pod": found.pod,
        "namespace": found.namespace,
        "state": found.state,
        "provider": found.provider,
        "instance": found.instance,
        "addresses": list(found.addresses),
        "age_s": round(found.age_s, 1),
        "last_error": found.last_error,
        **{key: value for key, value in (("pod_uid", found.pod_uid), ("peer_pod", found.peer_pod)) if value},
    }


def inspect_object(found: admin_pb2.InspectResponse) -> dict[str, Any]:
    """The JSON object of one sandbox with its history."""
    phases = sorted(found.phases.items(), key=lambda pair: _STEPS.index(pair[0]) if pair[0] in _STEPS else 99)
    return {
        **sandbox_object(found.sandbox),
        "history": [{"at": h.at, "state": h.state, "reason": h.reason} for h in found.history],
        "vni": found.vni,
        "netns": found.netns,
        "phases": {name: round(value, 1) for name, value in phases},
    }


def age(seconds: float) -> str:
    """A duration as people write it: 42s, 7m, 3h, 2d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _journal_note(why: Unanswered, state_dir: str) -> None:
    print(f"{why}; this is from the journal in {state_dir}", file=sys.stderr)


def _from_journal(state_dir: str) -> list[admin_pb2.InspectResponse]:
    from peerpods.adaptor.admin import read_offline
    from peerpods.errors import PeerPodError

    try:
        return read_offline(state_dir, time.time())
    except (PeerPodError, OSError) as error:
        fail(str(error), 1)
        raise


@click.command()
@_socket
@_state
@_json
def ps(socket: str, state_dir: str, as_json: bool) -> None:
    """List the sandboxes of this node."""
    try:
        found = list(ask(socket, "Ps", admin_pb2.PsRequest(), admin_pb2.PsResponse).sandboxes)
    except Unanswered as why:
        _journal_note(why, state_dir)
        found = [entry.sandbox for entry in _from_journal(state_dir)]
    except Exception as error:
        fail(str(error), 1)
        return
    if as_json:
        print(json.dumps([sandbox_object(entry) for entry in found]))
        return
    _print_table(found)


def short(text: str, limit: int = 80) -> str:
    """The first line of an error, cut; `inspect` has all of it."""
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= limit else first[: limit - 1] + "…"


def _print_table(found: list[admin_pb2.Sandbox]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        print("no sandboxes")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("SANDBOX", "POD", "STATE", "PROVIDER", "INSTANCE", "ADDRESS", "AGE", "LAST ERROR"):
        table.add_column(column, overflow="fold" if column == "LAST ERROR" else "ellipsis")
    for entry in found:
        error = short(entry.last_error)
        table.add_row(
            entry.sandbox[:12],
            f"{entry.namespace}/{entry.pod}",
            entry.state,
            entry.provider,
            entry.instance[:20],
            ", ".join(entry.addresses),
            age(entry.age_s),
            error,
        )
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False, markup=False).print(table)


@click.command(short_help="Show one sandbox with its history.")
@_socket
@_state
@_json
@click.argument("sandbox")
def inspect(socket: str, state_dir: str, as_json: bool, sandbox: str) -> None:
    """Show one sandbox with its history; an unambiguous beginning of the id is enough."""
    request = admin_pb2.InspectRequest(sandbox=sandbox)
    try:
        found = ask(socket, "Inspect", request, admin_pb2.InspectResponse)
    except Unanswered as why:
        _journal_note(why, state_dir)
        matching = [e for e in _from_journal(state_dir) if e.sandbox.sandbox.startswith(sandbox)]
        if len(matching) != 1:
            fail(
                f"{'no' if not matching else 'more than one'} sandbox begins with {sandbox!r}; see peerpods ps",
                1,
            )
        found = matching[0]
    except Exception as error:
        fail(str(error), 1)
        return
    if as_json:
        print(json.dumps(inspect_object(found)))
        return
    _print_inspect(found)


def _print_inspect(found: admin_pb2.InspectResponse) -> None:
    facts = sandbox_object(found.sandbox)
    facts["addresses"] = ", ".join(facts["addresses"])
    facts["age_s"] = age(facts.pop("age_s"))
    facts.update(vni=found.vni, netns=found.netns)
    for key, value in facts.items():
        print(f"{key.replace('age_s', 'age').replace('_', ' '):<12} {value}")
    if found.phases:
        print("phases")
        for name, value in inspect_object(found)["phases"].items():
            print(f"  {name:<12} {value:9.1f} ms")
    print("history")
    for entry in found.history:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at))
        print(f"  {moment}Z {entry.state:<10} {entry.reason}")


@click.command()
@_socket
@click.option("--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.argument("sandbox")
def console(socket: str, follow: bool, sandbox: str) -> None:
    """Print the console of a sandbox's VM."""
    from twisted.internet.defer import CancelledError
    from twisted.internet.endpoints import UNIXClientEndpoint
    from twisted.internet.error import ConnectError

    from peerpods.ttrpc import connect_client

    async def work(reactor: Any) -> None:
        client = await connect_client(reactor, UNIXClientEndpoint(reactor, socket))
        try:
            request = admin_pb2.ConsoleRequest(sandbox=sandbox, follow=follow)
            stream = client.stream(
                _ADMIN, "Console", request, admin_pb2.ConsoleChunk, kind="server_stream", timeout=None
            )
            while (chunk := await stream.receive()) is not None:
                sys.stdout.buffer.write(chunk.data)
                sys.stdout.buffer.flush()
        finally:
            await client.close()

    try:
        run_reactor(work)
    except CancelledError:
        sys.exit(130)
    except ConnectError as error:
        fail(f"{unanswered(socket, error)}; the console is read through a running adaptor", 1)
    except Exception as error:
        fail(str(error), 1)
