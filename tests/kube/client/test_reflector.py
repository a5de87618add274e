"""List and watch: whatever happens in between, the store ends as the server's truth."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerpods.kube.client.errors import ApiError
from peerpods.kube.client.reflector import ListPage, Reflector, Wait, Watch, query
from peerpods.kube.client.store import Store
from tests.kube.client.model import Collection, bookmark, expired, line


def shrink(found):
    return found["metadata"]["uid"], found["value"]


class Follower:
    """A reflector whose changes are replayed strictly into a shadow."""

    def __init__(self, random=lambda: 0.5):
        self.store = Store(shrink)
        self.core = Reflector(self.store, random)
        self.shadow = {}
        self.changes = []
        self.now = 0.0

    def take(self, changes):
        for change in changes:
            self.changes.append((change.kind, change.key))
            if change.kind == "added":
                assert change.key not in self.shadow and change.old is None
                self.shadow[change.key] = change.new
            elif change.kind == "modified":
                assert self.shadow[change.key] == change.old and change.old != change.new
                assert change.old[0] == change.new[0], "another uid is another object"
                self.shadow[change.key] = change.new
            else:
                assert self.shadow.pop(change.key) == change.old and change.new is None

    def command(self):
        """The next command that is not a wait."""
        while isinstance(command := self.core.next(self.now), Wait):
            self.now += command.seconds
        return command

    def page(self, collection, command, limit=2):
        items, version, token = collection.page(command.token, min(limit, command.limit))
        for item in items:
            self.take(self.core.item(json.loads(json.dumps(item))))
        self.take(self.core.page_end(version, token))

    def lines(self, lines):
        for each in lines:
            self.take(self.core.line(each))


def list_all(follower, collection):
    """Answer commands until a watch is wanted."""
    while isinstance(command := follower.command(), ListPage):
        try:
            follower.page(collection, command)
        except ApiError as error:
            follower.core.failed(error, follower.now)
    return command


NAMES = st.sampled_from("abcde")
WRITES = st.lists(st.tuples(NAMES, st.sampled_from(["put", "put", "delete", "replace"])), max_size=5)
STEP = st.tuples(
    WRITES,
    st.booleans(),
    st.sampled_from(["well", "well", "well", "refused", "500", "cut", "error410", "end", "bookmark", "twice", "403"]),
    st.integers(0, 6),
    st.sampled_from([0.0, 1.0, 100.0]),
)


@settings(max_examples=400, deadline=None)
@given(WRITES, st.lists(STEP, max_size=25))
def test_any_interleaving_ends_as_the_truth(first, steps):
    collection = Collection()
    for name, what in first:
        collection.write(name, what)
    follower = Follower()
    for writes, compact, fate, count, time in steps:
        for name, what in writes:
            collection.write(name, what)
        if compact:
            collection.compact()
        command = follower.command()
        follower.now += time
        try:
            if fate in ("refused", "500", "403"):
                codes = {"refused": 0, "500": 500, "403": 403}
                raise ApiError("no", status=codes[fate])
            if isinstance(command, ListPage):
                follower.page(collection, command)
                continue
            lines = collection.events_after(command.resource_version)
            if fate == "twice":
                lines = [each for each in lines for _ in range(2)]
            follower.lines(lines[: count if fate in ("cut", "end", "error410") else None])
            if fate == "bookmark":
                follower.lines([bookmark(collection.version(collection.revision))])
            if fate == "error410":
                follower.lines([expired()])
            if fate == "cut":
                raise ApiError("cut", reason="ConnectionLost")
            follower.core.ended(follower.now)
        except ApiError as error:
            follower.core.failed(error, follower.now)
    for _ in range(20):
        command = list_all(follower, collection)
        try:
            follower.lines(collection.events_after(command.resource_version))
        except ApiError as error:
            follower.core.failed(error, follower.now)
            continue
        break
    assert dict(follower.store) == collection.truth() == follower.shadow
    assert follower.core.synced


def test_a_new_list_tells_only_what_differs():
    collection, follower = Collection(), Follower()
    for name in "abcd":
        collection.write(name, "put")
    list_all(follower, collection)
    assert follower.changes == [("added", f"ns/{name}") for name in "abcd"]
    follower.changes.clear()
    collection.write("a", "put")
    collection.write("b", "replace")
    collection.write("c", "delete")
    collection.compact()
    follower.core.failed(ApiError("old", status=410), 0)
    list_all(follower, collection)
    assert follower.changes == [
        ("modified", "ns/a"),
        ("deleted", "ns/b"),
        ("added", "ns/b"),
        ("deleted", "ns/c"),
    ]


def test_an_expired_token_begins_the_list_anew():
    collection, follower = Collection(), Follower()
    for name in "abc":
        collection.write(name, "put")
    follower.page(collection, follower.command())
    collection.write("a", "delete")
    collection.write("d", "put")
    collection.compact()
    command = follower.command()
    assert command.token
    with pytest.raises(ApiError):
        collection.page(command.token, 2)
    follower.core.failed(ApiError("old", status=410), 0)
    command = follower.command()
    assert command == ListPage("", 500)
    assert not follower.core.synced
    list_all(follower, collection)
    assert dict(follower.store) == collection.truth() == follower.shadow


def test_tokens_that_always_expire_are_not_pressed():
    collection, follower = Collection(), Follower()
    for name in "abc":
        collection.write(name, "put")

    def answer(command):
        if command.token:
            follower.core.failed(ApiError("old", status=410), follower.now)
        else:
            follower.page(collection, command)

    waits = delays(follower, answer, 10)
    assert waits == sorted(waits) and waits[-1] > 10


def test_a_page_that_fails_in_passing_is_asked_for_again_not_the_whole_list():
    collection, follower = Collection(), Follower()
    for name in "abc":
        collection.write(name, "put")
    follower.page(collection, follower.command())
    command = follower.command()
    follower.core.failed(ApiError("busy", status=503), 0)
    assert follower.command() == command


def watching():
    collection, follower = Collection(), Follower()
    collection.write("a", "put")
    command = list_all(follower, collection)
    return collection, follower, command


def delays(follower, fail, count):
    found = []
    for _ in range(count):
        command = follower.core.next(follower.now)
        while not isinstance(command, Wait):
            fail(command)
            command = follower.core.next(follower.now)
        found.append(command.seconds)
        follower.now += command.seconds
    return found


def test_waits_grow_to_a_bound_and_the_first_event_ends_them():
    collection, follower, _ = watching()

    def refuse(command):
        follower.core.failed(ApiError("refused", reason="ConnectionRefused"), follower.now)

    waits = delays(follower, refuse, 12)
    assert waits[:4] == pytest.approx([0.15, 0.3, 0.6, 1.2])
    assert waits[-1] == 22.5, "half to all of 30 s"
    command = follower.command()
    collection.write("b", "put")
    follower.lines(collection.events_after(command.resource_version))
    assert delays(follower, refuse, 1) == pytest.approx([0.15])


def test_a_server_that_starts_anew_is_found_soon_and_one_that_is_away_is_left_in_peace():
    _, follower, _ = watching()

    def unreachable(command):
        follower.core.failed(ApiError("refused", reason="ConnectionRefused", sent=False), follower.now)

    waits = delays(follower, unreachable, 20)
    assert max(waits[:16]) == 3 and sum(waits[:16]) > 30
    assert waits[-1] == 22.5


def test_a_server_that_ends_each_watch_at_once_is_not_pressed():
    _, follower, _ = watching()
    waits = delays(follower, lambda command: follower.core.ended(follower.now), 10)
    assert waits[0] < 0.2 and waits[-1] > 10


@pytest.mark.parametrize("how", ["http", "event"])
def test_a_server_that_always_says_expired_is_not_pressed(how):
    collection, follower, _ = watching()
    lists = []

    def answer(command):
        if isinstance(command, ListPage):
            lists.append(follower.now)
            follower.page(collection, command)
        else:
            error = ApiError("old", status=410)
            if how == "event":
                with pytest.raises(ApiError) as caught:
                    follower.core.line(expired())
                error = caught.value
            follower.core.failed(error, follower.now)

    follower.changes.clear()
    delays(follower, answer, 10)
    assert follower.changes == []
    assert len(lists) <= 10 and lists[-1] > 20, "ten lists take longer and longer"


def test_a_watch_that_lasted_is_resumed_at_once():
    _, follower, command = watching()
    follower.now += 300
    follower.core.ended(follower.now)
    assert isinstance(again := follower.core.next(follower.now), Watch)
    assert again.resource_version == command.resource_version


def test_a_bookmark_moves_the_place_to_resume_at():
    _, follower, _ = watching()
    follower.lines([bookmark("v77")])
    follower.now += 300
    follower.core.ended(follower.now)
    assert follower.command().resource_version == "v77"
    assert follower.changes == [("added", "ns/a")]


def test_watches_end_at_different_times():
    timeouts = set()
    for chance in (0.0, 0.3, 0.999):
        follower = Follower(lambda chance=chance: chance)
        command = list_all(follower, Collection())
        timeouts.add(command.timeout)
        assert 290 <= command.timeout <= 590 and command.bound == command.timeout + 15
    assert len(timeouts) == 3


def test_a_kind_that_does_not_exist_yet_is_asked_for_until_it_does():
    follower = Follower()
    for _ in range(5):
        assert isinstance(follower.command(), ListPage)
        follower.core.failed(ApiError("no such kind", status=404), follower.now)
    collection = Collection()
    collection.write("a", "put")
    assert isinstance(list_all(follower, collection), Watch)


def test_a_kind_that_is_gone_for_a_moment_takes_nothing_from_the_store():
    collection, follower, _ = watching()
    follower.core.failed(ApiError("no such kind", status=404), follower.now)
    assert isinstance(follower.command(), ListPage)
    follower.core.failed(ApiError("no such kind", status=404), follower.now)
    assert "ns/a" in follower.store
    list_all(follower, collection)
    assert follower.changes == [("added", "ns/a")]


def test_a_server_that_will_not_resume_is_listed_anew():
    _, follower, _ = watching()
    for _ in range(5):
        assert isinstance(follower.command(), Watch)
        follower.core.failed(ApiError("cannot parse resourceVersion", status=500), follower.now)
    assert isinstance(follower.command(), ListPage)


def test_the_servers_wish_to_wait_is_followed():
    _, follower, _ = watching()
    follower.core.failed(ApiError("busy", status=429, retry_after=7), follower.now)
    assert follower.core.next(follower.now) == Wait(7)


def test_pages_that_are_too_large_become_smaller():
    follower = Follower()
    limits = []
    for _ in range(5):
        command = follower.command()
        limits.append(command.limit)
        follower.core.failed(ApiError("large", reason="TooLarge"), follower.now)
    assert limits == [500, 62, 7, 1, 1]


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b'{"type":"ADDED","object":3}',
        line("WHAT", {"metadata": {"resourceVersion": "1"}}),
        line("ADDED", {}),
    ],
)
def test_nonsense_ends_the_watch(bad):
    _, follower, command = watching()
    with pytest.raises(ApiError) as caught:
        follower.core.line(bad)
    follower.core.failed(caught.value, follower.now)
    assert follower.command().resource_version == command.resource_version


def test_the_end_of_an_earlier_namesake_is_passed_over():
    _, follower, _ = watching()
    stale = {"metadata": {"name": "a", "namespace": "ns", "uid": "other", "resourceVersion": "v5"}, "value": 1}
    follower.lines([line("DELETED", stale)])
    assert "ns/a" in follower.store


def test_the_query_asks_for_bookmarks():
    found = dict(query(Watch("v1", 300), "a=b", "x=y"))
    assert found == {
        "resourceVersion": "v1",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "300",
        "labelSelector": "a=b",
        "fieldSelector": "x=y",
    }
