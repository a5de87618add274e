"""AdmissionReview: what is taken, what is refused, what the answer looks like."""

import base64
import json
from pathlib import Path

import attrs
import pytest

from peerpods.errors import Refused
from peerpods.kube.webhook.review import answer
from tests.kube.webhook.applier import apply
from tests.kube.webhook.pods import POLICY, amounts, container, pod, sizes


def review(body, **fields):
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "default",
        "userInfo": {"username": "me"},
        "object": body,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **fields,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def ask(document, policy=POLICY):
    given = answer(json.dumps(document).encode(), policy)
    body = json.loads(given.body)
    assert body["apiVersion"] == "admission.k8s.io/v1"
    assert body["kind"] == "AdmissionReview"
    return body["response"], given


def test_a_peer_pod():
    body = pod(container("a", amounts("3", "4Gi")))
    response, given = ask(review(body))
    assert response["uid"] == "u-1"
    assert response["allowed"] is True
    assert response["patchType"] == "JSONPatch"
    patched = apply(body, json.loads(base64.b64decode(response["patch"], validate=True)))
    assert sizes(patched)[:2] == ("3", "4096")
    assert "warnings" not in response
    assert given.result == "mutated"


def test_dry_run_is_answered_the_same():
    body = pod(container("a", amounts("3", "4Gi")))
    assert ask(review(body, dryRun=True))[0] == ask(review(body))[0]


def test_another_pod_has_no_patch():
    response, given = ask(review(pod(container("a"), cls="other")))
    assert response == {"uid": "u-1", "allowed": True}
    assert given.result == "ignored"


def test_nothing_left_to_do():
    body = pod(container("a", amounts("3", "4Gi")))
    patch = json.loads(base64.b64decode(ask(review(body))[0]["patch"]))
    response, given = ask(review(apply(body, patch)))
    assert response == {"uid": "u-1", "allowed": True}
    assert given.result == "unchanged"


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"operation": "CONNECT"},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": {"group": "x", "version": "v1", "kind": "Pod"}},
        {"kind": None},
    ],
)
def test_whatever_else_a_wrong_rule_sends_is_let_through(fields):
    response, _ = ask(review(pod(container("a", amounts("3"))), **fields))
    assert response == {"uid": "u-1", "allowed": True}


def test_warnings_and_denial():
    body = pod(container("a"), hostNetwork=True)
    response, given = ask(review(body))
    assert response["allowed"] is True
    assert len(response["warnings"]) == 1
    assert [item.kind for item in given.notices] == ["host-network"]
    response, given = ask(review(body), attrs.evolve(POLICY, deny=True))
    assert response["allowed"] is False
    assert "patch" not in response
    assert response["status"]["code"] == 403
    assert "hostNetwork" in response["status"]["message"]
    assert given.result == "denied"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100000, "not JSON"),
        (b"[]", "no AdmissionReview"),
        (b"null", "no AdmissionReview"),
        (b"{}", "no AdmissionReview"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"a"}}', "v1beta1"),
        (b'{"kind":"AdmissionReview","apiVersion":5}', "5"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', "uid"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":""}}', "uid"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":5}}', "uid"),
        (json.dumps(review(None)).encode(), "no object"),
        (json.dumps(review([])).encode(), "no object"),
    ],
)
def test_refused_in_words(body, words):
    with pytest.raises(Refused, match=words):
        answer(body, POLICY)


REAL = Path(__file__).parents[2] / "fixtures/kube/reviews.jsonl"
SIZES = {
    "busybox": ("1", "128", None),
    "shop": ("2", "2048", None),
    "meshed": ("2", "2176", None),
    "train": (None, None, "1"),
}


def test_reviews_as_the_real_server_sends_them():
    seen = []
    for line in REAL.read_bytes().splitlines():
        request = json.loads(line)["request"]
        response = json.loads(answer(line, POLICY).body)["response"]
        name = request["object"]["metadata"]["name"]
        seen.append(name)
        assert response["uid"] == request["uid"]
        if name in SIZES:
            patch = json.loads(base64.b64decode(response["patch"]))
            assert sizes(apply(request["object"], patch)) == SIZES[name]
            assert "warnings" not in response
        else:
            assert response == {"uid": request["uid"], "allowed": True}
    assert seen == [*SIZES, "plain"]
