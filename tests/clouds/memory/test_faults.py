"""Each fault of the plan does what it says, and no more."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from peerpods.clouds.interface import CreateRequest, InstanceEvent
from peerpods.clouds.memory.faults import FaultPlan, Guest, When
from peerpods.clouds.memory.provider import POLL_STEP, MemoryProvider, MemoryStore
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.errors import CloudError, CloudFailure
from peerpods.model import InstanceSpec, InstanceState


def request(token: str = "t-1") -> CreateRequest:
    return CreateRequest(token=token, name="podvm-p-1", spec=InstanceSpec(), user_data=b"", tags={"k": "v"})


def make(clock: Any = None, **faults: Any) -> MemoryProvider:
    plan = FaultPlan(guest=Guest.REFUSES, **faults)
    return MemoryProvider(MemorySettings(), clock or Clock(), faults=plan)


def start(awaitable: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(awaitable)


def result(deferred: Deferred[Any]) -> list[Any]:
    got: list[Any] = []
    deferred.addBoth(got.append)
    return got


@pytest_twisted.ensureDeferred
async def test_create_that_fails_before_made_nothing() -> None:
    provider = make(creates={1: (When.BEFORE, CloudError("no room", kind=CloudFailure.QUOTA))})
    with pytest.raises(CloudError, match="no room") as caught:
        await provider.create(request())
    assert caught.value.kind is CloudFailure.QUOTA
    assert await provider.find("t-1") is None
    assert (await provider.create(request())).token == "t-1"


@pytest_twisted.ensureDeferred
async def test_create_that_fails_after_made_one_and_a_second_try_gives_it() -> None:
    provider = make(creates={1: (When.AFTER, None)})
    with pytest.raises(CloudError):
        await provider.create(request())
    found = await provider.find("t-1")
    assert found is not None
    assert (await provider.create(request())).id == found.id


@pytest_twisted.ensureDeferred
async def test_lost_answer_never_comes_and_can_be_cancelled() -> None:
    provider = make(creates={1: (When.LOST, None)})
    call = start(provider.create(request()))
    got = result(call)
    assert got == []
    call.cancel()
    assert got[0].check(CancelledError)
    assert await provider.find("t-1") is not None


@pytest_twisted.ensureDeferred
async def test_only_the_numbered_create_fails() -> None:
    provider = make(creates={2: (When.BEFORE, None)})
    await provider.create(request("a-1"))
    with pytest.raises(CloudError):
        await provider.create(request("b-1"))
    await provider.create(request("b-1"))


@pytest_twisted.ensureDeferred
async def test_delayed_visibility() -> None:
    provider = make(hidden_for=2)
    instance = await provider.create(request())
    assert await provider.find("t-1") is None
    assert await provider.list({"k": "v"}) == []
    assert await provider.find("t-1") == instance
    assert (await provider.create(request())).id == instance.id


@pytest_twisted.ensureDeferred
async def test_throttle_hits_the_next_calls_only() -> None:
    provider = make(throttled=2)
    for _ in range(2):
        with pytest.raises(CloudError, match="too many requests"):
            await provider.create(request())
    await provider.create(request())


@pytest_twisted.ensureDeferred
async def test_delete_errors_leave_the_instance() -> None:
    provider = make(delete_errors=1)
    instance = await provider.create(request())
    with pytest.raises(CloudError):
        await provider.delete(instance.id)
    assert await provider.find("t-1") is not None
    await provider.delete(instance.id)
    assert await provider.find("t-1") is None


def test_delete_that_takes_looks_shows_deleting_until_gone() -> None:
    clock = Clock()
    provider = make(clock, delete_polls=3)
    instance = result(start(provider.create(request())))[0]
    done = result(start(provider.delete(instance.id)))
    for _ in range(3):
        assert done == []
        shown = result(start(provider.describe(instance.id)))[0]
        assert shown.state is InstanceState.DELETING
        clock.advance(POLL_STEP)
    assert done == [None]
    assert result(start(provider.find("t-1"))) == [None]


def test_a_late_address_ends_the_wait_and_is_an_event() -> None:
    clock = Clock()
    provider = make(clock, address_delay=5.0)
    events: list[InstanceEvent] = []
    provider.watch(events.append)
    instance = result(start(provider.create(request())))[0]
    assert instance.addresses == ()
    waited = result(start(provider.wait_address(instance.id)))
    clock.advance(4.9)
    assert waited == []
    clock.advance(0.2)
    assert waited[0].agent_host == "127.0.0.1"
    assert [e.reason for e in events] == ["address"]


def test_an_address_that_never_comes() -> None:
    clock = Clock()
    provider = make(clock, address_delay=None)
    instance = result(start(provider.create(request())))[0]
    call = start(provider.wait_address(instance.id))
    waited = result(call)
    clock.advance(10000)
    assert waited == []
    call.cancel()
    assert waited[0].check(CancelledError)
    assert clock.getDelayedCalls() == []


def test_an_instance_that_dies_fails_the_wait_and_is_told() -> None:
    clock = Clock()
    provider = make(clock, address_delay=None, dies_after=3.0)
    events: list[InstanceEvent] = []
    stop = provider.watch(events.append)
    instance = result(start(provider.create(request())))[0]
    waited = result(start(provider.wait_address(instance.id)))
    clock.advance(3.0)
    assert waited[0].value.kind is CloudFailure.RETRYABLE
    assert [(e.instance.id, e.instance.state, e.reason) for e in events] == [
        (instance.id, InstanceState.STOPPED, "crashed")
    ]
    stop()


def test_delete_ends_a_wait() -> None:
    provider = make(address_delay=None)
    instance = result(start(provider.create(request())))[0]
    waited = result(start(provider.wait_address(instance.id)))
    result(start(provider.delete(instance.id)))
    assert waited[0].value.kind is CloudFailure.NOT_FOUND


@pytest_twisted.ensureDeferred
async def test_a_shared_store_outlives_its_provider() -> None:
    store = MemoryStore()
    first = MemoryProvider(MemorySettings(), Clock(), store=store, faults=FaultPlan(guest=Guest.REFUSES))
    instance = await first.create(request())
    await first.stop()
    second = MemoryProvider(MemorySettings(), Clock(), store=store)
    assert await second.find("t-1") == instance
    assert store.calls == [("create", "t-1"), ("find", "t-1")]


def test_a_fresh_plan_injects_nothing() -> None:
    assert attrs.asdict(FaultPlan(), recurse=False) == {
        "creates": {},
        "hidden_for": 0,
        "throttled": 0,
        "delete_errors": 0,
        "delete_polls": 0,
        "address_delay": 0.0,
        "dies_after": None,
        "guest": Guest.NORMAL,
    }
