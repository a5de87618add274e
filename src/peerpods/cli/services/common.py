"""What all twistd services share: flags made from settings classes, mistakes in words, exit codes.

Exit codes: 1 could not start or failed, 2 wrong configuration or wrong reactor. A service that a signal stopped ends
by that signal (twistd raises it again after the clean end), which service managers count as success for SIGTERM.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python import usage
from twisted.python.failure import Failure

from peerpods.config.fields import options_of
from peerpods.config.load import Loader, Mistakes, read_file
from peerpods.config.resolve import nearest
from peerpods.errors import ConfigError, PeerPodError


def die(service: str, lines: Iterable[str], code: int = 2) -> NoReturn:
    """Print one line per mistake on standard error and end the process."""
    for line in lines:
        print(f"{service}: {line}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(code)


def need_asyncio_reactor(service: str) -> None:
    """Install the asyncio reactor, which pyroute2's netlink needs, unless it is installed already."""
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    elif type(installed).__name__ != "AsyncioSelectorReactor":
        die(
            service,
            [f"needs the asyncio reactor, --reactor chose {type(installed).__name__}; leave --reactor out"],
        )


def parameters(classes: Iterable[type[Any]]) -> list[tuple[str, None, None, str]]:
    """`optParameters` rows for settings classes; the defaults stay with the settings."""
    rows: list[tuple[str, None, None, str]] = []
    for settings in classes:
        for option in options_of(settings).values():
            default = "(unset)" if option.default in ("", None) else option.default
            env = f", env {option.env}" if option.env else ""
            rows.append((option.flag, None, None, f"{option.help} [{default}{env}]"))
    return rows


class ServiceOptions(usage.Options):
    """Flags of one service. Subclasses name the service and its settings classes."""

    service = ""
    tables: tuple[tuple[type[Any], str], ...] = ()
    """(settings class, TOML table)."""
    optFlags = [
        (
            "check-config",
            None,
            "check the configuration, print the effective values and their origin, and end",
        )
    ]
    optParameters: list[Any] = [("config", None, "", "configuration file (TOML)")]
    takes_file = True
    providers: tuple[str, ...] = ()
    """Names that tables below [provider] may have, for a service that reads one of them."""

    def __init__(self) -> None:
        # usage.Options reads the class attribute; each instance's class is made by `options_class`.
        super().__init__()
        self.settings: list[Any] = []

    def parseOptions(self, options: Any = None) -> None:
        """Parse the flags; unknown ones and stray words are mistakes with a neighbour's name."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            die(self.service, [self._in_words(str(error))])

    def _in_words(self, message: str) -> str:
        match = re.search(r"option (--[\w-]+)", message)
        if match and "not recognized" in message:
            close = nearest(match[1].removeprefix("--"), [name.rstrip("=") for name in self.longOpt])
            hint = f"; did you mean '--{close}'?" if close else ""
            return f"{match[1]}: unknown flag; see --help{hint}"
        return message

    def parseArgs(self, *words: str) -> None:
        """No words are taken."""
        if words:
            raise usage.UsageError(f"{words[0]!r}: unexpected word; flags start with --")

    def postOptions(self) -> None:
        """Resolve and check all settings before anything starts."""
        flags = {
            name: value for name, value in self.items() if value is not None and name not in ("config", "check-config")
        }
        if not self.takes_file and self["config"]:
            flags["config"] = self["config"]
        try:
            document = read_file(self["config"]) if self.takes_file else {}
            loader = Loader(flags, os.environ, document)
            self.settings = [loader.section(cls, table) for cls, table in self.tables]
            if self.providers:
                loader.check_providers(self.providers)
            loader.finish()
        except Mistakes as error:
            die(self.service, str(error).splitlines())
        if self["check-config"]:
            print("\n".join(loader.report))
            sys.stdout.flush()
            sys.exit(0)
        parent = cast("dict[str, Any] | None", getattr(self, "parent", None))
        if parent is not None and not parent.get("logfile") and not parent.get("syslog"):
            parent["logger"] = "peerpods.obs.bridge.twisted_observer"


def options_class(
    service_name: str, service_tables: tuple[tuple[type[Any], str], ...], *, file: bool = True
) -> type[ServiceOptions]:
    """A `usage.Options` class with the flags of these settings."""
    own = {option.flag for cls, _ in service_tables for option in options_of(cls).values()}

    class Options(ServiceOptions):
        service = service_name
        tables = service_tables
        takes_file = file
        optParameters: list[Any] = list(parameters([cls for cls, _ in service_tables]))
        synopsis = "[options]"

    if "config" in own:
        rest = [row for row in ServiceOptions.optParameters if row[0] not in own]
        Options.optParameters = Options.optParameters + rest
    return Options


class WithHttp(Service):
    """A service and its HTTP port; starting waits for both, and a port in use is an error in words."""

    def __init__(self, service: IService, http: IService | None) -> None:
        self._parts = [cast(Service, part) for part in (http, service) if part is not None]

    def startService(self) -> Deferred[None]:
        """Start the HTTP port, then the service."""
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        for part in self._parts:
            started = part.startService()
            if isinstance(started, Deferred):
                await started

    def stopService(self) -> Deferred[None]:
        """Stop both, the service first."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for part in reversed(self._parts):
            if part.running:
                await maybeDeferred(part.stopService)


class _Exit:
    code = 0


def _leave() -> None:
    if _Exit.code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_Exit.code)


class Guarded(MultiService):
    """Starts one service; when it cannot start, says why in one line and ends the process with code 1 or 2."""

    def __init__(self, name: str, make: Callable[[], IService], reactor: Any) -> None:
        super().__init__()
        self._name = name
        self._reactor = reactor
        self._make = make
        self._inner: Service | None = None
        atexit.register(_leave)

    def startService(self) -> None:
        """Build and start; never raises."""
        super().startService()
        maybeDeferred(self._start).addErrback(self._failed)

    def _start(self) -> Deferred[Any] | None:
        self._inner = cast(Service, self._make())
        return cast("Deferred[Any] | None", self._inner.startService())

    def stopService(self) -> Any:
        """Stop the service; the Deferred fires when it has cleaned up."""
        stopped = [super().stopService()]
        if self._inner is not None and self._inner.running:
            stopped.append(self._inner.stopService())
        from twisted.internet.defer import DeferredList

        return DeferredList([d for d in stopped if d is not None], consumeErrors=True)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, (PeerPodError, OSError)):
            print(f"{self._name}: {error}", file=sys.__stderr__)
        else:
            failure.printTraceback(file=sys.__stderr__)
        _Exit.code = 2 if isinstance(error, ConfigError) else 1
        self._reactor.callLater(0, self._stop)

    def _stop(self) -> None:
        if self._reactor.running:
            self._reactor.stop()
