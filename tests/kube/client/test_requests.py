"""Requests against a scripted server on loopback."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.server import NOT_DONE_YET

from peerpods.kube.client import ApiError, PatchKind
from peerpods.kube.client.access import Access
from peerpods.kube.objects.resources import NODES, PEER_PODS, PODS
from tests.kube.client.scripted import Rig, Source, status


@pytest.fixture
def rig():
    rigs: list[Rig] = []

    def make(answer, source=None) -> Rig:
        rigs.append(Rig(reactor, answer, source))
        return rigs[-1]

    yield make
    for each in rigs:
        pytest_twisted.blockon(Deferred.fromCoroutine(each.stop()))


def ensure(test):
    return pytest_twisted.ensureDeferred(test)


@ensure
async def test_get_names_the_object_and_who_asks(rig):
    one = rig(lambda request: {"metadata": {"name": "a"}})
    assert await one.kube.get(PODS, "a", "ns") == {"metadata": {"name": "a"}}
    assert one.server.seen == [("GET", "/api/v1/namespaces/ns/pods/a", None)]
    assert one.server.requests[0].getHeader("user-agent") == "peerpods-test/1"


@ensure
async def test_writes_carry_manager_kind_and_media_type(rig):
    one = rig(lambda request: {})
    kube = one.kube
    await kube.create(PODS, {"metadata": {"name": "a", "namespace": "ns"}}, dry_run=True)
    await kube.replace(PODS, {"metadata": {"name": "a", "namespace": "ns"}}, subresource="status")
    await kube.patch(NODES, "n", [{"op": "test"}], kind=PatchKind.JSON, subresource="status", field_manager="x y")
    await kube.apply(PEER_PODS, {"metadata": {"name": "a", "namespace": "ns"}}, force=False)
    await kube.delete(PODS, "a", "ns", uid="u", grace=0, propagation="Orphan", resource_version="7")
    assert [(method, uri) for method, uri, _ in one.server.seen] == [
        ("POST", "/api/v1/namespaces/ns/pods?fieldManager=peerpods-test&dryRun=All"),
        ("PUT", "/api/v1/namespaces/ns/pods/a/status?fieldManager=peerpods-test"),
        ("PATCH", "/api/v1/nodes/n/status?fieldManager=x%20y"),
        (
            "PATCH",
            "/apis/confidentialcontainers.org/v1alpha1/namespaces/ns/peerpods/a?fieldManager=peerpods-test&force=false",
        ),
        ("DELETE", "/api/v1/namespaces/ns/pods/a"),
    ]
    kinds = [request.getHeader("content-type") for request in one.server.requests]
    assert kinds == [
        "application/json",
        "application/json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
        "application/json",
    ]
    assert one.server.seen[0][2]["kind"] == "Pod"
    assert one.server.seen[3][2]["apiVersion"] == "confidentialcontainers.org/v1alpha1"
    assert one.server.seen[4][2] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
        "propagationPolicy": "Orphan",
        "gracePeriodSeconds": 0,
    }


@ensure
async def test_list_follows_pages_and_names_the_kind_of_items(rig):
    pages = {
        None: {"metadata": {"resourceVersion": "9", "continue": "t/1"}, "items": [{"metadata": {"name": "a"}}]},
        b"t/1": {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}]},
    }
    one = rig(lambda request: pages[request.args.get(b"continue", [None])[0]])
    found, revision = await one.kube.list(PODS, labels="a=b", fields="spec.nodeName=n", limit=1)
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert found[0]["kind"] == "Pod" and found[0]["apiVersion"] == "v1"
    assert revision == "9"
    assert one.server.seen[0][1] == "/api/v1/pods?limit=1&labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dn"
    names, _ = await one.kube.list(PODS, shrink=lambda pod: pod["metadata"]["name"])
    assert names == ["a", "b"]


@ensure
async def test_list_begins_anew_when_its_token_has_expired(rig):
    said: list[Any] = [
        {"metadata": {"resourceVersion": "1", "continue": "t"}, "items": [{"metadata": {"name": "old"}}]},
        status(410, "Expired"),
        {"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "new"}}]},
    ]
    one = rig(lambda request: said.pop(0))
    found, revision = await one.kube.list(PODS)
    assert [item["metadata"]["name"] for item in found] == ["new"]
    assert revision == "5"


@ensure
async def test_reads_are_repeated_and_writes_only_when_refused_unlooked_at(rig):
    said: list[Any] = [status(500, "InternalError"), status(503, "ServiceUnavailable"), {"ok": 1}]
    one = rig(lambda request: said.pop(0))
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}
    said[:] = [status(500, "InternalError"), {"ok": 1}]
    with pytest.raises(ApiError) as caught:
        await one.kube.create(PODS, {"metadata": {"name": "a"}}, "ns")
    assert caught.value.status == 500 and caught.value.passing
    said[:] = [status(429, "TooManyRequests", retryAfterSeconds=0), {"ok": 2}]
    assert await one.kube.create(PODS, {"metadata": {"name": "a"}}, "ns") == {"ok": 2}


@ensure
async def test_a_refusal_says_which_right_is_missing(rig):
    one = rig(lambda request: status(403, "Forbidden", "pods is forbidden: no"))
    with pytest.raises(ApiError) as caught:
        await one.kube.patch(PODS, "a", {}, "ns", kind=PatchKind.MERGE, subresource="status")
    error = caught.value
    assert error.forbidden and not error.passing and not error.namespace_terminating
    assert str(error) == (
        "cannot patch pods/status 'a' in namespace 'ns': pods is forbidden: no (this identity lacks the right: "
        "verb 'patch' on pods, subresource 'status' in namespace 'ns'; see its Role or ClusterRole)"
    )
    assert len(one.server.seen) == 1


@ensure
async def test_a_refused_token_is_renewed_once_and_the_request_repeated(rig):
    def answer(request):
        if request.getHeader("authorization") == "Bearer new":
            return {"ok": 1}
        return status(401, "Unauthorized")

    source = Source(Access(url="http://unused"))
    one = rig(answer, source)
    source.accesses = [Access(url=one.url, authorization="Bearer new")]
    assert await one.kube.create(PODS, {"metadata": {"name": "a"}}, "ns") == {"ok": 1}
    assert source.loads == [True]
    assert len(one.server.seen) == 2
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}
    assert len(one.server.seen) == 3


@ensure
async def test_a_token_that_stays_wrong_gives_the_refusal(rig):
    one = rig(lambda request: status(401, "Unauthorized"))
    with pytest.raises(ApiError) as caught:
        await one.kube.get(PODS, "a", "ns")
    assert caught.value.unauthorized
    assert "token may have expired" in str(caught.value)
    assert len(one.server.seen) == 1, "the same credentials are not tried again"


@ensure
async def test_silence_is_bounded(rig):
    one = rig(lambda request: NOT_DONE_YET)
    with pytest.raises(ApiError) as caught:
        await one.kube.request("GET", "/x", timeout=0.05)
    assert caught.value.status == 0 and caught.value.reason == "Timeout" and caught.value.passing
    assert "no answer within 0.05 s" in str(caught.value)


@ensure
async def test_nobody_there(rig):
    one = rig(lambda request: {})
    await one.port.stopListening()
    with pytest.raises(ApiError) as caught:
        await one.kube.request("POST", "/x", body={}, timeout=2.0)
    assert caught.value.reason == "ConnectionRefused" and not caught.value.sent
    assert "nobody listens there" in str(caught.value)


@ensure
async def test_a_cut_connection_is_tried_again_for_a_read_only(rig):
    cuts = [1]

    def answer(request):
        if cuts:
            cuts.pop()
            request.channel.transport.abortConnection()
            return NOT_DONE_YET
        return {"ok": 1}

    one = rig(answer)
    assert await one.kube.get(PODS, "a", "ns") == {"ok": 1}
    cuts.append(1)
    with pytest.raises(ApiError) as caught:
        await one.kube.create(PODS, {"metadata": {"name": "a"}}, "ns")
    assert caught.value.status == 0 and caught.value.reason == "ConnectionLost" and caught.value.sent


@ensure
async def test_what_is_not_json_is_an_error_in_words(rig):
    one = rig(lambda request: b"<html>")
    with pytest.raises(ApiError) as caught:
        await one.kube.get(PODS, "a", "ns")
    assert caught.value.reason == "Malformed"


@ensure
async def test_an_answer_above_the_bound_is_refused_and_a_list_asks_for_less(rig, monkeypatch):
    monkeypatch.setattr("peerpods.kube.client.wire.BODY_LIMIT", 1000)

    def answer(request):
        limit = int(request.args[b"limit"][0])
        items = [{"metadata": {"name": "x" * 50}}] * limit
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    one = rig(answer)
    found, _ = await one.kube.list(PODS, limit=80)
    assert len(found) == 10
    with pytest.raises(ApiError) as caught:
        await one.kube.request("GET", "/x", query=[("limit", "80")])
    assert caught.value.reason == "TooLarge"


@ensure
async def test_version_survives_letters(rig):
    one = rig(lambda request: {"major": "1", "minor": "31+"})
    assert await one.kube.version() == (1, 31)


@ensure
async def test_connections_are_kept_and_shared(rig):
    peers = []

    def answer(request):
        peers.append(request.getClientAddress().port)
        return {}

    one = rig(answer)
    for _ in range(5):
        await one.kube.get(PODS, "a", "ns")
    assert len(set(peers)) == 1


@ensure
async def test_a_call_that_is_cancelled_ends_at_once(rig):

    one = rig(lambda request: NOT_DONE_YET)
    call = Deferred.fromCoroutine(one.kube.get(PODS, "a", "ns"))
    while not one.server.seen:
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.01, pause.callback, None)
        await pause
    call.cancel()
    with pytest.raises(CancelledError):
        await call


def test_json_stays_as_it_is():
    from peerpods.kube.client import codec

    body = {"a": [1, 2.5, None, True, "ü\u2028"], "big": 2**60}
    assert json.loads(codec.encode(body)) == body
    assert codec.decode(codec.encode(body)) == body
