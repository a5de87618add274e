"""Credentials that change under way, many requests at once, a client that is closed."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.web.server import NOT_DONE_YET

from peerpods.errors import ConfigError
from peerpods.kube.client import ApiError
from peerpods.kube.client.access import Access
from peerpods.kube.client.wire import IN_FLIGHT
from peerpods.kube.objects.resources import PODS
from tests.kube.client.real import until, wait
from tests.kube.client.scripted import Rig, Source, status

ensure = pytest_twisted.ensureDeferred


@pytest.fixture
def rig():
    rigs: list[Rig] = []

    def make(answer, source=None) -> Rig:
        rigs.append(Rig(reactor, answer, source))
        return rigs[-1]

    yield make
    for each in rigs:
        pytest_twisted.blockon(Deferred.fromCoroutine(each.stop()))


@ensure
async def test_a_token_is_renewed_each_minute_without_holding_anybody_up(rig):
    source = Source(Access(url="http://unused"))
    seen = []

    def answer(request):
        seen.append(request.getHeader("authorization"))
        return {}

    one = rig(answer, source)
    source.accesses = [Access(url=one.url, authorization="Bearer new")]
    await one.kube.get(PODS, "a", "ns")
    assert source.loads == []
    one.kube._session._loaded -= 61
    await one.kube.get(PODS, "a", "ns")
    await until(lambda: one.kube._session._renewal is None and source.loads)
    await one.kube.get(PODS, "a", "ns")
    assert seen == [None, None, "Bearer new"] and source.loads == [False]


@ensure
async def test_credentials_that_cannot_be_read_leave_the_old_ones(rig):
    class Broken:
        where = "the test"

        def _thd_load(self, before, force):
            raise ConfigError("the file is gone")

    one = rig(lambda request: {"ok": 1}, Broken())
    one.kube._session._loaded -= 61
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}
    await until(lambda: one.kube._session._renewal is None)
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}


@ensure
async def test_many_refused_at_once_renew_once(rig):
    source = Source(Access(url="http://unused"))
    one = rig(
        lambda request: (
            {"ok": 1} if request.getHeader("authorization") == "Bearer new" else status(401, "Unauthorized")
        ),
        source,
    )
    source.accesses = [Access(url=one.url, authorization="Bearer new")]
    calls = [Deferred.fromCoroutine(one.kube.get(PODS, f"p{number}", "ns")) for number in range(10)]
    results = await DeferredList(calls)
    assert results == [(True, {"ok": 1})] * 10
    assert source.loads == [True]


@ensure
async def test_a_refusal_that_comes_after_the_renewal_is_no_reason_for_another(rig):
    late = []

    def answer(request):
        if request.getHeader("authorization") == "Bearer new":
            return {"ok": 1}
        if b"late" in request.uri:
            late.append(request)
            return NOT_DONE_YET
        return status(401, "Unauthorized")

    source = Source(Access(url="http://unused"))
    one = rig(answer, source)
    source.accesses = [Access(url=one.url, authorization="Bearer new")]
    slow = Deferred.fromCoroutine(one.kube.get(PODS, "late", "ns"))
    await until(lambda: late)
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}
    late[0].setResponseCode(401)
    late[0].finish()
    assert await slow == {"ok": 1}
    assert source.loads == [True]


@ensure
async def test_a_plugin_that_hangs_holds_nobody_up_beyond_his_time_and_is_not_started_again(rig):
    hanging, loads = threading.Event(), []

    class Hanging:
        where = "the test"

        def _thd_load(self, before, force):
            loads.append(force)
            hanging.wait(60)
            return Access(url=one.url, authorization="Bearer new")

    one = rig(
        lambda request: {"ok": 1} if request.getHeader("authorization") else status(401, "Unauthorized"), Hanging()
    )
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            await one.kube.request("GET", "/x", timeout=0.5)
        assert caught.value.unauthorized
    assert loads == [True]
    one.kube._session._tell_waiting(None)
    one.kube._session._forced = one.kube._session._loaded = -100.0
    with pytest.raises(ApiError):
        await one.kube.request("GET", "/x", timeout=0.5)
    assert loads == [True], "not even when its time is over"
    hanging.set()
    await until(lambda: not one.kube._session._source.busy)
    await until(lambda: one.kube._session._renewal is None)
    assert await one.kube.request("GET", "/x", timeout=30) == {"ok": 1}


@ensure
async def test_a_watch_that_is_refused_renews_too(rig):
    source = Source(Access(url="http://unused"))

    def answer(request):
        return b"line\n" if request.getHeader("authorization") == "Bearer new" else status(401, "Unauthorized")

    one = rig(answer, source)
    source.accesses = [Access(url=one.url, authorization="Bearer new")]
    got = []
    await one.kube.watch(PODS, None, [], got.append)
    assert got == [b"line\n"]


@ensure
async def test_a_watch_that_does_not_begin_is_given_up(rig, monkeypatch):
    monkeypatch.setattr("peerpods.kube.client.kube.WATCH_HEADERS", 0.1)
    one = rig(lambda request: NOT_DONE_YET)
    with pytest.raises(ApiError) as caught:
        await one.kube.watch(PODS, None, [], lambda data: None)
    assert caught.value.reason == "Timeout"


@ensure
async def test_another_server_is_taken_when_the_file_names_one(rig):
    old = rig(lambda request: status(401, "Unauthorized"))
    new = rig(lambda request: {"from": "new"})
    old.source.accesses = [Access(url=new.url)]
    assert await old.kube.get(PODS, "a", "ns") == {"from": "new"}
    assert old.kube.url == new.url


@ensure
async def test_requests_at_once_are_bounded_and_all_served(rig):
    waiting = []

    def answer(request):
        waiting.append(request)
        return NOT_DONE_YET

    one = rig(answer)
    calls = [Deferred.fromCoroutine(one.kube.get(PODS, f"p{number}", "ns")) for number in range(IN_FLIGHT + 8)]
    await until(lambda: len(waiting) == IN_FLIGHT)
    await wait(0.05)
    assert len(waiting) == IN_FLIGHT
    done = 0
    while done < len(calls):
        await until(lambda: waiting)
        request = waiting.pop()
        request.write(b"{}")
        request.finish()
        done += 1
    assert await DeferredList(calls) == [(True, {})] * len(calls)


@ensure
async def test_a_closed_client_says_so_and_ends_what_is_under_way(rig):
    one = rig(lambda request: NOT_DONE_YET)
    call = Deferred.fromCoroutine(one.kube.create(PODS, {"metadata": {"name": "a"}}, "ns"))
    await until(lambda: one.server.seen)
    await one.kube.close()
    with pytest.raises(ApiError):
        await call
    with pytest.raises(ApiError) as caught:
        await one.kube.get(PODS, "a", "ns")
    assert "closed" in str(caught.value)


def test_a_service_in_a_cluster_does_not_pay_for_what_only_kubeconfigs_need():
    code = (
        "import sys; from peerpods.kube.client import connect, Informer, EventRecorder, LeaderElection, WorkQueue;"
        "print([name for name in ('kubernetes', 'OpenSSL', 'cryptography', 'urllib3', 'yaml') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "[]", said.stdout + said.stderr
