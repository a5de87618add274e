"""The contract of `peerpods.clouds.interface.Provider` as tests. Each provider's suite derives a class from this one.

A derived class gives an async fixture `subject`: a started provider and what the tests need to know of it. Instances
made by a test are deleted by the fixture's end at the latest.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from peerpods.clouds.interface import (
    TAG_CLUSTER,
    TAG_NODE,
    TAG_SANDBOX,
    CreateRequest,
    InstanceEvent,
    Provider,
)
from peerpods.errors import CloudError, CloudFailure, ConfigError
from peerpods.model import InstanceSpec, InstanceState, PodNetwork

_number = itertools.count(1)


def start(awaitable: Any) -> Deferred[Any]:
    """A coroutine as a Deferred."""
    return Deferred.fromCoroutine(awaitable)


@functools.cache
def user_data(pod: str = "pod") -> bytes:
    """A real document with keys, as a VM gets it."""
    from peerpods.pki.issue import issue
    from peerpods.userdata import document
    from peerpods.userdata.apf import ApfConfig

    keys = issue(f"podvm-{pod}", datetime.now(UTC))
    network = PodNetwork(
        interface="eth0", mac="02:00:00:00:00:01", mtu=1450, addresses=("10.1.1.2/24",), node_address="10.0.0.1"
    )
    return document(
        ApfConfig(
            pod_name=pod,
            pod_namespace="default",
            server_key=keys.server_key,
            server_cert=keys.server_cert,
            client_ca=keys.client_cert,
            network=network,
            tunnel="none",
        )
    )


@attrs.define(kw_only=True)
class Subject:
    """A provider under test."""

    provider: Provider
    end: Callable[[str], Awaitable[None]]
    """Make an instance stop by itself, as a crash would."""
    requests_seen: Callable[[], int] | None = None
    """How many creates have reached the cloud, where one can count them."""
    wrong: Sequence[tuple[str, Callable[[], Provider]]] = ()
    """(setting, a provider whose setting of that name is wrong)."""
    console_says: bytes = b""
    """What an instance's console shows sooner or later; empty when there is no console."""
    slow: float = 20.0
    """Seconds that an instance may take to have an address or to show its console."""
    cluster: str = "contract"
    made: list[str] = attrs.field(factory=list)

    def request(self, sandbox: str | None = None, **changes: Any) -> CreateRequest:
        """A new order; its token is new unless `sandbox` is given."""
        name = sandbox or f"{next(_number):08x}"
        values: dict[str, Any] = {
            "token": f"{name}-1",
            "name": f"podvm-t-{name[:8]}",
            "spec": InstanceSpec(),
            "user_data": user_data(),
            "tags": {TAG_CLUSTER: self.cluster, TAG_NODE: "n1", TAG_SANDBOX: name},
        }
        return CreateRequest(**{**values, **changes})

    async def create(self, request: CreateRequest) -> Any:
        """Create and remember for the clean-up."""
        instance = await self.provider.create(request)
        self.made.append(instance.id)
        return instance

    async def close(self) -> None:
        """Delete what is left of the tests' instances."""
        for instance in await self.provider.list({TAG_CLUSTER: self.cluster}):
            await self.provider.delete(instance.id)

    async def until(self, check: Callable[[], Awaitable[bool]]) -> None:
        """Look again and again, within `slow` seconds."""
        end = reactor.seconds() + self.slow
        while not await check():
            assert reactor.seconds() < end, "it did not come in time"
            await deferLater(reactor, 0.1)


class ProviderContract:
    """Derive from this and give the fixture `subject`."""

    @pytest_twisted.ensureDeferred
    async def test_create_gives_an_instance_that_carries_what_was_asked(self, subject: Subject) -> None:
        request = subject.request()
        instance = await subject.create(request)
        assert instance.id
        assert instance.name == request.name
        assert instance.token == request.token
        assert dict(instance.tags).items() >= dict(request.tags).items()
        assert instance.state in (InstanceState.PENDING, InstanceState.RUNNING)

    @pytest_twisted.ensureDeferred
    async def test_create_with_an_equal_token_gives_the_same_instance(self, subject: Subject) -> None:
        request = subject.request()
        first = await subject.create(request)
        second = await subject.create(request)
        assert second.id == first.id
        assert len(await subject.provider.list({TAG_CLUSTER: subject.cluster})) == 1

    @pytest_twisted.ensureDeferred
    async def test_two_creates_at_once_with_an_equal_token_make_one_instance(self, subject: Subject) -> None:
        request = subject.request()
        first, second = await gatherResults([start(subject.create(request)), start(subject.create(request))])
        assert first.id == second.id
        assert len(await subject.provider.list({TAG_CLUSTER: subject.cluster})) == 1

    @pytest_twisted.ensureDeferred
    async def test_different_tokens_give_different_instances(self, subject: Subject) -> None:
        first = await subject.create(subject.request())
        second = await subject.create(subject.request())
        assert first.id != second.id

    @pytest_twisted.ensureDeferred
    async def test_find_knows_an_instance_whose_create_was_abandoned(self, subject: Subject) -> None:
        request = subject.request()
        call = start(subject.provider.create(request))
        call.addErrback(lambda f: f.trap(CancelledError))
        call.cancel()
        # Whatever came of it: a second create with the token settles it, and find sees that one instance.
        instance = await subject.create(request)
        found = await subject.provider.find(request.token)
        assert found is not None
        assert found.id == instance.id
        assert len(await subject.provider.list({TAG_CLUSTER: subject.cluster})) == 1

    @pytest_twisted.ensureDeferred
    async def test_find_gives_none_for_an_unknown_token(self, subject: Subject) -> None:
        await subject.create(subject.request())
        assert await subject.provider.find("nobody-9") is None

    @pytest_twisted.ensureDeferred
    async def test_list_shows_only_what_carries_all_tags(self, subject: Subject) -> None:
        mine = await subject.create(subject.request())
        tags = {TAG_CLUSTER: subject.cluster, TAG_NODE: "n2"}
        other = await subject.create(subject.request(tags=tags))
        try:
            listed = await subject.provider.list({TAG_CLUSTER: subject.cluster, TAG_NODE: "n1"})
            assert [i.id for i in listed] == [mine.id]
            listed = await subject.provider.list({TAG_CLUSTER: subject.cluster})
            assert {i.id for i in listed} == {mine.id, other.id}
            assert await subject.provider.list({TAG_CLUSTER: "strangers"}) == []
        finally:
            await subject.provider.delete(other.id)

    @pytest_twisted.ensureDeferred
    async def test_delete_returns_when_it_is_gone(self, subject: Subject) -> None:
        request = subject.request()
        instance = await subject.create(request)
        await subject.provider.delete(instance.id)
        assert await subject.provider.find(request.token) is None
        assert await subject.provider.list({TAG_CLUSTER: subject.cluster}) == []
        with pytest.raises(CloudError) as caught:
            await subject.provider.describe(instance.id)
        assert caught.value.kind is CloudFailure.NOT_FOUND

    @pytest_twisted.ensureDeferred
    async def test_delete_of_what_does_not_exist_is_success(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        await subject.provider.delete(instance.id)
        await subject.provider.delete(instance.id)
        await subject.provider.delete("no-such-instance")

    @pytest_twisted.ensureDeferred
    async def test_two_deletes_at_once_both_succeed(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        delete = subject.provider.delete
        await gatherResults([start(delete(instance.id)), start(delete(instance.id))])
        assert await subject.provider.list({TAG_CLUSTER: subject.cluster}) == []

    @pytest_twisted.ensureDeferred
    async def test_a_token_may_be_used_again_after_its_delete(self, subject: Subject) -> None:
        request = subject.request()
        first = await subject.create(request)
        await subject.provider.delete(first.id)
        second = await subject.create(request)
        assert second.state in (InstanceState.PENDING, InstanceState.RUNNING)
        await subject.provider.delete(second.id)

    @pytest_twisted.ensureDeferred
    async def test_wait_address_gives_where_the_agent_is(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        waiting = start(subject.provider.wait_address(instance.id))
        ready = await waiting.addTimeout(subject.slow, reactor)
        assert ready.id == instance.id
        assert ready.agent_host
        assert 0 < ready.agent_port < 65536

    @pytest_twisted.ensureDeferred
    async def test_wait_address_of_what_does_not_exist_is_not_found(self, subject: Subject) -> None:
        with pytest.raises(CloudError) as caught:
            await subject.provider.wait_address("no-such-instance")
        assert caught.value.kind is CloudFailure.NOT_FOUND

    @pytest_twisted.ensureDeferred
    async def test_wait_address_can_be_cancelled(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        waiting = start(subject.provider.wait_address(instance.id))
        outcome: list[Any] = []
        waiting.addBoth(outcome.append)
        waiting.cancel()
        assert outcome, "a cancelled wait must end at once"
        assert (await subject.provider.describe(instance.id)).id == instance.id

    @pytest_twisted.ensureDeferred
    async def test_describe_of_what_does_not_exist_is_not_found(self, subject: Subject) -> None:
        with pytest.raises(CloudError) as caught:
            await subject.provider.describe("no-such-instance")
        assert caught.value.kind is CloudFailure.NOT_FOUND

    @pytest_twisted.ensureDeferred
    async def test_console_shows_what_the_instance_wrote(self, subject: Subject) -> None:
        if not subject.provider.capabilities().console:
            pytest.skip("this provider has no console")
        instance = await subject.create(subject.request())

        async def said() -> bool:
            return subject.console_says in await subject.provider.console(instance.id)

        await subject.until(said)
        assert len(await subject.provider.console(instance.id, 5)) == 5

    @pytest_twisted.ensureDeferred
    async def test_console_of_what_does_not_exist_is_not_found(self, subject: Subject) -> None:
        if not subject.provider.capabilities().console:
            pytest.skip("this provider has no console")
        with pytest.raises(CloudError) as caught:
            await subject.provider.console("no-such-instance")
        assert caught.value.kind is CloudFailure.NOT_FOUND

    @pytest_twisted.ensureDeferred
    async def test_user_data_over_the_limit_is_refused_before_any_call(self, subject: Subject) -> None:
        limit = subject.provider.capabilities().max_user_data
        before = subject.requests_seen() if subject.requests_seen else 0
        request = subject.request(user_data=b"#" * (limit + 1))
        with pytest.raises(CloudError) as caught:
            await subject.provider.create(request)
        assert caught.value.kind is CloudFailure.INVALID
        assert str(limit) in str(caught.value)
        assert (subject.requests_seen() if subject.requests_seen else 0) == before
        assert await subject.provider.find(request.token) is None

    @pytest_twisted.ensureDeferred
    async def test_verify_passes_with_good_settings(self, subject: Subject) -> None:
        await subject.provider.verify()

    @pytest_twisted.ensureDeferred
    async def test_verify_names_the_wrong_setting_and_a_remedy(self, subject: Subject) -> None:
        for setting, make in subject.wrong:
            provider = make()
            try:
                with pytest.raises(ConfigError) as caught:
                    try:
                        await provider.start()
                    except CloudError:
                        assert setting == "uri", "only a wrong address may fail the start"
                    await provider.verify()
                assert caught.value.setting == setting
                assert caught.value.remedy
            finally:
                await provider.stop()

    @pytest_twisted.ensureDeferred
    async def test_watch_tells_of_an_instance_that_stops_by_itself(self, subject: Subject) -> None:
        if not subject.provider.capabilities().events:
            pytest.skip("this provider has no events")
        events: list[InstanceEvent] = []
        stop = subject.provider.watch(events.append)
        instance = await subject.create(subject.request())
        events.clear()
        await subject.end(instance.id)

        async def told() -> bool:
            return any(e.instance.id == instance.id for e in events)

        await subject.until(told)
        event = next(e for e in events if e.instance.id == instance.id)
        assert event.instance.state in (InstanceState.STOPPED, InstanceState.GONE)
        assert event.instance.token == instance.token
        assert event.reason
        stop()
        stop()

    @pytest_twisted.ensureDeferred
    async def test_watch_says_nothing_of_a_delete(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        events: list[InstanceEvent] = []
        stop = subject.provider.watch(events.append)
        await subject.provider.delete(instance.id)
        await deferLater(reactor, 0)
        stop()
        assert [e for e in events if e.reason != "address"] == []

    @pytest_twisted.ensureDeferred
    async def test_wait_address_fails_when_the_instance_stopped(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        await subject.end(instance.id)

        async def stopped() -> bool:
            try:
                return (await subject.provider.describe(instance.id)).state is InstanceState.STOPPED
            except CloudError as error:
                assert error.kind is CloudFailure.NOT_FOUND
                return True

        await subject.until(stopped)
        with pytest.raises(CloudError) as caught:
            await subject.provider.wait_address(instance.id)
        assert caught.value.kind in (CloudFailure.RETRYABLE, CloudFailure.NOT_FOUND)

    @pytest_twisted.ensureDeferred
    async def test_stop_is_idempotent_and_instances_stay(self, subject: Subject) -> None:
        instance = await subject.create(subject.request())
        await subject.provider.stop()
        await subject.provider.stop()
        await subject.provider.start()
        assert (await subject.provider.describe(instance.id)).id == instance.id
