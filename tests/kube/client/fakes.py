"""A `Kube` that a test answers by hand."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from peerpods.kube.client.kube import Page


class Call:
    """One call under way."""

    def __init__(self, verb: str, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        self.verb, self.args, self.more = verb, args, more
        self.cancelled = False
        self.deferred: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, _: Any) -> None:
        self.cancelled = True

    def answer(self, result: Any) -> None:
        self.deferred.callback(result)

    def fail(self, error: Exception) -> None:
        self.deferred.errback(error)


class HandKube:
    """Every call waits in `calls` until the test answers it, or is answered by `script(call)` at once."""

    field_manager = "peerpods-test"

    def __init__(self, script: Any = None) -> None:
        self.calls: list[Call] = []
        self.script = script

    def take(self, verb: str) -> Call:
        """The oldest open call, which must be of this verb."""
        call = self.calls.pop(0)
        assert call.verb == verb, call.verb
        return call

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)

        async def method(*args: Any, **more: Any) -> Any:
            call = Call(verb, args, more)
            if self.script is not None:
                return self.script(call)
            self.calls.append(call)
            return await call.deferred

        return method


def page_of(resource: Any, items: list[dict[str, Any]], version: str, token: str = "") -> Page:
    body = {"metadata": {"resourceVersion": version, "continue": token}, "items": items}
    return Page(resource, json.dumps(body).encode())
