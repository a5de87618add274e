"""The decisions of list and watch. Pure: pages, lines, failures and the time go in, changes and commands come out.

Rules (they are those of the API's own clients, with their gaps closed):

- list in pages; a continue token that has expired begins the list anew;
- watch from the list's resourceVersion with bookmarks, resume from the last one seen;
- "expired" comes as HTTP 410 and as an ERROR event with code 410: both lead to a new list;
- a list tells only real differences: another uid or another resourceVersion than the one held;
- the same name with another uid is one object deleted and another one added;
- resourceVersions are compared for equality only;
- a failure waits, longer each time, with jitter; the first event ends that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from peerpods.kube.client.backoff import Backoff
from peerpods.kube.client.codec import DecodeError, decode_event
from peerpods.kube.client.errors import TOO_LARGE, ApiError
from peerpods.kube.client.store import Change, Store

LIMIT = 500
"""Objects a page."""
SHORTEST_WATCH, LONGEST_WATCH = 290, 590
"""Seconds that the server is asked to keep a watch open: different ones for each, so that they do not end together."""
SPARE = 15.0
"""Seconds after that until a silent server counts as gone."""
STEADY = 5.0
"""Seconds after which a watch that ends counts as a good one: the next follows at once."""
SETTLED = 60.0
"""Seconds of watching after which the next list needs no longer wait."""
EAGER = 16
"""Failures in a row up to which a server that cannot be reached at all is tried each few seconds: one that starts
anew is found soon, one that is away for long is left in peace."""
STUBBORN = 5
"""Failed tries in a row to resume a watch, with an answer from the server, after which a new list is made."""


@attrs.frozen
class ListPage:
    """Get one page; answer by `item` for each, then `page_end`, or `failed`."""

    token: str
    limit: int


@attrs.frozen
class Watch:
    """Watch; answer by `line` for each, then `ended` or `failed`."""

    resource_version: str
    timeout: int
    """timeoutSeconds for the server."""

    @property
    def bound(self) -> float:
        """Seconds after which the connection is dropped."""
        return self.timeout + SPARE


@attrs.frozen
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


Command = ListPage | Watch | Wait


class Reflector:
    """Keeps a `Store` equal to what the server has."""

    def __init__(self, store: Store, random: Callable[[], float]) -> None:
        """Args:
        random: gives numbers in [0, 1).
        """
        self.store = store
        self._random = random
        self._backoff = Backoff(0.2, 30.0, random)
        self._relists = Backoff(0.2, 30.0, random)
        self._limit = LIMIT
        self._token = ""
        self._resource_version: str | None = None
        """Where to watch from; None while a list is due or under way."""
        self._delay = 0.0
        self._began = 0.0
        self._heard = False
        self._stubborn = 0
        self.synced = False
        """Whether a list was complete once."""
        self.reason = "start"
        """Why the list under way, or the last one, was made."""

    def next(self, now: float) -> Command:
        """What to do now."""
        if self._delay > 0:
            delay, self._delay = self._delay, 0.0
            return Wait(delay)
        if self._resource_version is None:
            if not self._token:
                self.store.begin()
            return ListPage(self._token, self._limit)
        self._began = now
        self._heard = False
        seconds = SHORTEST_WATCH + int(self._random() * (LONGEST_WATCH - SHORTEST_WATCH + 1))
        return Watch(self._resource_version, min(seconds, LONGEST_WATCH))

    # -- list

    def item(self, found: dict[str, Any]) -> list[Change]:
        """One object of the page under way."""
        return self.store.listed(found)

    def page_end(self, resource_version: str, token: str) -> list[Change]:
        """All items of a page were given; the last page ends the list."""
        self._token = token
        if token:
            return []
        changes = self.store.end()
        self._resource_version = resource_version
        self._limit = LIMIT
        self._stubborn = 0
        self.synced = True
        return changes

    # -- watch

    def line(self, line: bytes) -> list[Change]:
        """One line of the watch.

        Raises:
            ApiError: the server reports an error, or the line makes no sense; end the watch and call `failed`.
        """
        try:
            kind, found = decode_event(line)
        except DecodeError as error:
            raise ApiError(f"a line of the watch is not understood: {error}") from None
        if kind == "ERROR":
            code = found.get("code")
            said = str(found.get("message", "no reason given"))[:500]
            raise WatchError(said, status=code if isinstance(code, int) else 500, reason=str(found.get("reason", "")))
        meta = found.get("metadata") or {}
        version = meta.get("resourceVersion")
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not version:
            raise ApiError(f"the watch sent an event {kind!r} without meaning")
        self._heard = True
        self._stubborn = 0
        self._backoff.reset()
        if kind == "BOOKMARK":
            changes = []
        elif kind == "DELETED":
            changes = self.store.deleted(found)
        else:
            changes = self.store.changed(found)
        self._resource_version = version
        return changes

    def ended(self, now: float) -> None:
        """The server ended the watch in order: resume it."""
        lasted = now - self._began
        self._settle(lasted)
        if lasted >= STEADY:
            self._backoff.reset()
        else:
            self._delay = self._backoff.next()

    # -- failures

    def failed(self, error: ApiError, now: float) -> None:
        """The command under way failed."""
        if self._resource_version is None:
            self._list_failed(error)
        else:
            self._watch_failed(error, now)
        if not error.sent and self._backoff.failures <= EAGER:
            self._delay = min(self._delay, 2 + 2 * self._random())
        if error.retry_after is not None:
            self._delay = max(self._delay, min(error.retry_after, 60.0))

    def _list_failed(self, error: ApiError) -> None:
        if error.status == 0 and error.reason == TOO_LARGE and self._limit > 1:
            self._limit = max(1, self._limit // 8)
            return
        if error.gone and self._token:
            self.reason = "continue"
            self._delay = self._relists.next()
        else:
            # The page failed in passing: its token may still be good.
            self._delay = self._backoff.next()
            if error.passing:
                return
        self._token = ""

    def _watch_failed(self, error: ApiError, now: float) -> None:
        self._settle(now - self._began)
        stays = error.passing and not isinstance(error, WatchError)
        if error.status and not error.gone:
            self._stubborn += 1
        if error.gone:
            self._relist("expired")
        elif isinstance(error, WatchError) or error.status in (400, 404) or self._stubborn >= STUBBORN:
            self._relist("error")
        elif stays and self._heard and now - self._began >= STEADY:
            self._delay = self._random() * 0.2
        else:
            self._delay = self._backoff.next()

    def _relist(self, reason: str) -> None:
        self.reason = reason
        self._resource_version = None
        self._token = ""
        self._stubborn = 0
        self._delay = self._relists.next()

    def _settle(self, lasted: float) -> None:
        if lasted >= SETTLED:
            self._relists.reset()


class WatchError(ApiError):
    """An ERROR event."""


def query(command: ListPage | Watch, labels: str, fields: str) -> Iterator[tuple[str, str]]:
    """The query of a watch."""
    if isinstance(command, Watch):
        yield "resourceVersion", command.resource_version
        yield "allowWatchBookmarks", "true"
        yield "timeoutSeconds", str(command.timeout)
    if labels:
        yield "labelSelector", labels
    if fields:
        yield "fieldSelector", fields
