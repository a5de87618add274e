"""What tests turn: faults, delays, and who may do what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from tests.kube.double.refusal import Refusal
from tests.kube.double.routes import Attributes

Authorizer = Callable[[Attributes], bool]


@attrs.define
class Fault:
    """One request (or several) that fails on purpose; status 0 cuts the connection."""

    count: int
    status: int
    method: str = ""
    path: str = ""
    reason: str | None = None
    retry_after: int | None = None

    def refusal(self) -> Refusal:
        """The answer."""
        text = f"the double was told to answer {self.status}"
        return Refusal(self.status, text, reason=self.reason, retry_after=self.retry_after)


@attrs.frozen
class Seen:
    """One request that came in."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    user_agent: str
    user: str


class Gate:
    """Holds requests while closed."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: list[Deferred[None]] = []

    async def passed(self) -> None:
        """Returns once the gate is open."""
        while self.closed:
            waiting: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            await waiting

    def open(self) -> None:
        """Let all pass."""
        self.closed = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


@attrs.define
class Knobs:
    """All of them.

    Attributes:
        latency: seconds that each answer takes at least.
        users: bearer tokens and whose they are; None: everybody is admin.
        authorizer: says whether something is allowed.
        bookmark_every: seconds between bookmarks.
    """

    faults: list[Fault] = attrs.Factory(list)
    gate: Gate = attrs.Factory(Gate)
    latency: float = 0.0
    users: dict[str, str] | None = None
    authorizer: Authorizer = lambda _: True
    bookmark_every: float = 60.0

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that is due for a request, once counted."""
        for each in self.faults:
            if each.method in ("", method) and path.startswith(each.path):
                each.count -= 1
                if not each.count:
                    self.faults.remove(each)
                return each
        return None

    def authenticate(self, header: str) -> str:
        """Who asks.

        Raises:
            Refusal: 401 for a token that nobody has.
        """
        if self.users is None:
            return "system:admin"
        if not header.startswith("Bearer "):
            return "system:anonymous"
        user = self.users.get(header.removeprefix("Bearer ").strip())
        if user is None:
            raise Refusal(401, "Unauthorized")
        return user

    def authorize(self, wanted: Attributes) -> None:
        """Let the authorizer decide.

        Raises:
            Refusal: 403 in the words of RBAC.
        """
        if self.authorizer(wanted):
            return
        resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
        place = f' in the namespace "{wanted.namespace}"' if wanted.namespace else " at the cluster scope"
        name = f' "{wanted.name}"' if wanted.name else ""
        dotted = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
        text = (
            f'{dotted}{name} is forbidden: User "{wanted.user}" cannot {wanted.verb} resource "{resource}" in '
            f'API group "{wanted.group}"{place}'
        )
        details: dict[str, Any] = {"name": wanted.name, "group": wanted.group, "kind": wanted.resource}
        raise Refusal(403, text, details=details)
