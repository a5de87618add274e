"""Pull secrets: every form, every mistake, and merging against a plain oracle."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.kube.objects.pullsecret import BadSecret, credentials, host_of, merge, merge_texts, to_json

MARK = "PASSWORD-MARKER"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(document: object, kind: str = "kubernetes.io/dockerconfigjson") -> dict:
    key = ".dockercfg" if kind.endswith("dockercfg") else ".dockerconfigjson"
    text = document if isinstance(document, str) else json.dumps(document)
    return {"type": kind, "data": {key: b64(text)}}


GOOD = {
    "auth": ({"auths": {"r.example": {"auth": b64("u:p:w")}}}, "u:p:w"),
    "pair": ({"auths": {"r.example": {"username": "u", "password": "p"}}}, "u:p"),
    "both": ({"auths": {"r.example": {"auth": b64("a:b"), "username": "u", "password": "p"}}}, "a:b"),
    "empty password": ({"auths": {"r.example": {"username": "u", "password": ""}}}, "u:"),
    "email and more": ({"auths": {"r.example": {"auth": b64("u:p"), "email": "e"}}, "x": 1}, "u:p"),
    "beside an empty one": ({"auths": {"r.example": {"auth": b64("u:p")}, "e.example": {}}}, "u:p"),
    "folded": ({"auths": {"r.example": {"auth": b64("u:" + "p" * 90)[:60] + "\n" + b64("u:" + "p" * 90)[60:]}}},
               "u:" + "p" * 90),
}  # fmt: skip


@pytest.mark.parametrize("name", list(GOOD))
def test_every_form_becomes_one(name):
    document, pair = GOOD[name]
    assert credentials(secret(document)) == {"r.example": {"auth": b64(pair)}}
    assert credentials(secret(document["auths"], "kubernetes.io/dockercfg")) == {"r.example": {"auth": b64(pair)}}


BAD = {
    "opaque": ({"type": "Opaque", "data": {}}, "type Opaque"),
    "no type": ({"data": {}}, "type Opaque"),
    "tls": ({"type": "kubernetes.io/tls", "data": {"tls.key": MARK}}, "type kubernetes.io/tls"),
    "no key": ({"type": "kubernetes.io/dockerconfigjson", "data": {"config.json": ""}}, "no key .dockerconfigjson"),
    "no data": ({"type": "kubernetes.io/dockerconfigjson"}, "no key"),
    "base64": ({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": MARK}}, "not base64"),
    "json": (secret("{" + MARK), "not a JSON object"),
    "list": (secret([MARK]), "not a JSON object"),
    "no auths": (secret({"r.example": {"auth": b64(MARK)}}), "no object 'auths'"),
    "empty": (secret({"auths": {}}), "no credentials"),
    "auth base64": (secret({"auths": {"r.example": {"auth": MARK + "%"}}}), "'auth' of registry r.example"),
    "auth pair": (secret({"auths": {"r.example": {"auth": b64(MARK)}}}), "not base64 of user:password"),
    "auth kind": (secret({"auths": {"r.example": {"auth": 5}}}), "is not a text"),
    "half": (secret({"auths": {"r.example": {"username": MARK}}}), "needs both"),
    "colon": (secret({"auths": {"r.example": {"username": "a:" + MARK, "password": "x"}}}), "holds ':'"),
    "entry": (secret({"auths": {"r.example": MARK}}), "is not a JSON object"),
    "deep": (secret("[" * 100000), "not a JSON object"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_every_mistake_has_words_and_none_shows_the_content(name):
    obj, words = BAD[name]
    with pytest.raises(BadSecret) as caught:
        credentials(obj)
    assert words in str(caught.value)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "https://docker.io", "registry-1.docker.io/v2/"],
)
def test_one_registry_has_many_names(text):
    assert host_of(text) == "docker.io"
    assert host_of("https://r.example:5000/team/") == "r.example:5000/team"


HOSTS = st.sampled_from(["a.example", "https://a.example/v2/", "b.example:5000", "docker.io", "index.docker.io/v1/"])
ENTRY = st.builds(lambda p: {"auth": b64("u:" + p)}, st.text(max_size=5))
AUTHS = st.dictionaries(HOSTS, ENTRY, max_size=4)


@given(st.lists(AUTHS, max_size=5))
def test_the_first_that_knows_a_registry_wins(parts):
    merged = merge(parts)
    expected: dict[str, list] = {}
    for part in parts:
        for host in {host_of(registry) for registry in part}:
            expected.setdefault(host, [(r, e) for r, e in part.items() if host_of(r) == host])
    assert sorted(merged.items()) == sorted(pair for pairs in expected.values() for pair in pairs)
    assert merge([merged]) == merged
    text = to_json(merged)
    assert (text == "") == (not merged)
    if text:
        assert json.loads(text) == {"auths": merged}


@given(AUTHS, AUTHS)
def test_the_pod_s_come_before_the_node_s(pods, nodes):
    first = to_json(pods)
    node = json.dumps({"auths": nodes, "credHelpers": {"x": "y"}})
    if not first:
        return
    merged = json.loads(merge_texts(first, node))
    assert merged["auths"] == merge([pods, nodes])
    assert merged["credHelpers"] == {"x": "y"}
    assert merge_texts(first, None) == first
    assert merge_texts(first, "not json") == "not json"


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=4) | st.integers(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                    max_leaves=10))  # fmt: skip
def test_whatever_a_secret_holds_nothing_else_is_raised(document):
    for obj in (secret({"auths": document}), secret(document), {"type": document, "data": document}):
        try:
            credentials(obj)
        except BadSecret:
            continue
