"""Webhooks that do not answer as they should: the failure policy decides; and configurations that are refused."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.cluster_pki import Authority
from tests.kube.conformance.api import Answer, Api, Json
from tests.kube.conformance.gadgets import config_map, pod
from tests.kube.conformance.hook import Hook, Installed, Script, closed_port, encoded, review

PATH = "/ours"
LABEL = encoded([{"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}])


def _slow(request: Json) -> Any:
    time.sleep(1.5)
    return review(request, **LABEL)


MALFORMED: dict[str, Script] = {
    "wrong uid": lambda request: review({"uid": "other"}, **LABEL),
    "no uid": lambda request: {**review(request), "response": {"allowed": True, **LABEL}},
    "patch without type": lambda request: review(request, patch=LABEL["patch"]),
    "type without patch": lambda request: review(request, patchType="JSONPatch"),
    "patch of another type": lambda request: review(request, patch=LABEL["patch"], patchType="MergePatch"),
    "patch not base64": lambda request: review(request, patch="[{}]", patchType="JSONPatch"),
    "patch as a list": lambda request: review(request, patch=[{"op": "add"}], patchType="JSONPatch"),
    "v1beta1": lambda request: {**review(request, **LABEL), "apiVersion": "admission.k8s.io/v1beta1"},
    "other kind": lambda request: {**review(request, **LABEL), "kind": "Review"},
    "no version": lambda request: {"response": review(request, **LABEL)["response"]},
    "no response": lambda request: {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"},
    "HTTP 500": lambda request: (500, b"broken"),
    "HTTP 404": lambda request: (404, b"nothing here"),
    "HTTP 503 with a review": lambda request: (503, b"{}"),
    "no JSON": lambda request: (200, b"<html>"),
    "nothing": lambda request: (200, b""),
    "too late": _slow,
}


async def fails_or_is_passed(api: Api, hooks: Installed, name: str) -> Answer:
    """With Fail: 500, and nothing is made. Then with Ignore: admitted, unchanged. Gives the refusal."""

    async def refused() -> Answer | None:
        answer = await api.create(r.PODS, pod("a"), dryRun="All")
        return None if answer.code == 201 else answer

    failed: Answer = await api.until(refused)
    assert (failed.code, failed.reason) == (500, "InternalError"), failed.body
    assert "failed calling webhook" in failed.body["message"]
    assert failed.body["details"]["causes"], failed.body
    await hooks.ignore(name)

    async def admitted() -> Answer | None:
        answer = await api.create(r.PODS, pod("a"))
        return answer if answer.code == 201 else None

    made: Answer = await api.until(admitted)
    assert "labels" not in made.meta
    return failed


@pytest.mark.parametrize("what", MALFORMED)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_none(api: Api, hook: Hook, hooks: Installed, what: str) -> None:
    name = await hooks.serve(PATH, MALFORMED[what], timeoutSeconds=1)
    await fails_or_is_passed(api, hooks, name)
    assert hook.order.count(PATH) >= 2


@pytest_twisted.ensureDeferred
async def test_an_answer_may_say_more_than_is_needed(api: Api, hooks: Installed) -> None:
    more = {"auditAnnotations": {"a": "b"}, "neverHeardOf": 1, "warnings": []}
    await hooks.serve(PATH, lambda request: {**review(request, **LABEL, **more), "request": request, "x": 1})
    assert (await api.made(r.PODS, pod("a"))).meta["labels"] == {"by": "hook"}


@pytest_twisted.ensureDeferred
async def test_nobody_listens(api: Api, hooks: Installed) -> None:
    client = {"url": f"https://127.0.0.1:{closed_port()}{PATH}", "caBundle": hooks.hook.bundle}
    await hooks.create(hooks.entry(PATH, clientConfig=client))
    failed = await fails_or_is_passed(api, hooks, hooks.names[-1])
    assert "refused" in failed.body["message"]


@pytest.mark.parametrize("bundle", ["missing", "wrong"])
@pytest_twisted.ensureDeferred
async def test_a_certificate_that_the_bundle_did_not_sign(
    api: Api, hooks: Installed, bundle: str, tmp_path: Path
) -> None:
    entry = hooks.entry(PATH)
    if bundle == "missing":
        del entry["clientConfig"]["caBundle"]
    else:
        other = Authority(tmp_path, "other-ca")
        entry["clientConfig"]["caBundle"] = base64.b64encode(other.file.read_bytes()).decode()
    await hooks.create(entry)
    failed = await fails_or_is_passed(api, hooks, hooks.names[-1])
    assert "certificate" in failed.body["message"], failed.body
    assert hooks.hook.calls == []


@pytest.mark.parametrize("names", [[], ["elsewhere"]], ids=["none", "another"])
@pytest_twisted.ensureDeferred
async def test_a_certificate_needs_the_name_that_is_called(
    api: Api, hooks: Installed, authority: Authority, names: list[str]
) -> None:
    pair = authority.issue("nameless", "localhost", names=names)
    other = Hook(pair, authority.file, "localhost")
    try:
        await hooks.create(hooks.entry(PATH, clientConfig={"url": other.url + PATH, "caBundle": other.bundle}))
        failed = await fails_or_is_passed(api, hooks, hooks.names[-1])
        assert "certificate" in failed.body["message"], failed.body
        assert other.calls == []
    finally:
        other.close()


@pytest_twisted.ensureDeferred
async def test_a_bundle_that_is_mended_serves_at_once(api: Api, hook: Hook, hooks: Installed) -> None:
    entry = hooks.entry(PATH)
    del entry["clientConfig"]["caBundle"]
    await hooks.create(entry)
    change = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": hook.bundle}]
    assert (await api.patch(r.MUTATING_WEBHOOKS, hooks.names[-1], change, "json")).code == 200

    async def asked() -> bool:
        answer = await api.create(r.CONFIG_MAPS, config_map(), dryRun="All")
        return answer.code == 201 and bool(hook.calls)

    await api.until(asked)


# changes to a webhook, the field of the cause; None: it is taken
CONFIGURATIONS: dict[str, tuple[Json, str | None]] = {
    "none": ({"sideEffects": "None"}, None),
    "none on dry run": ({"sideEffects": "NoneOnDryRun"}, None),
    "some": ({"sideEffects": "Some"}, "webhooks[0].sideEffects"),
    "unknown": ({"sideEffects": "Unknown"}, "webhooks[0].sideEffects"),
    "no side effects said": ({"sideEffects": None}, "webhooks[0].sideEffects"),
    "no versions": ({"admissionReviewVersions": None}, "webhooks[0].admissionReviewVersions"),
    "short name": ({"name": "ours.example"}, "webhooks[0].name"),
    "long timeout": ({"timeoutSeconds": 31}, "webhooks[0].timeoutSeconds"),
    "no timeout": ({"timeoutSeconds": 0}, "webhooks[0].timeoutSeconds"),
    "policy": ({"failurePolicy": "Maybe"}, "webhooks[0].failurePolicy"),
    "reinvocation": ({"reinvocationPolicy": "Always"}, "webhooks[0].reinvocationPolicy"),
    "plain HTTP": ({"clientConfig": {"url": "http://127.0.0.1:1/"}}, "webhooks[0].clientConfig.url"),
    "no client": ({"clientConfig": {}}, "webhooks[0].clientConfig"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
@pytest_twisted.ensureDeferred
async def test_configurations(api: Api, hooks: Installed, case: str) -> None:
    change, field = CONFIGURATIONS[case]
    entry = {name: value for name, value in hooks.entry(PATH, **change).items() if value is not None}
    answer = await hooks.create(entry)
    if field is None:
        assert answer.code == 201, answer.body
        return
    assert (answer.code, answer.reason) == (422, "Invalid"), answer.body
    fields = [each["field"] for each in answer.body["details"]["causes"]]
    assert field in fields, fields


@pytest_twisted.ensureDeferred
async def test_what_a_configuration_is_filled_with(api: Api, hooks: Installed) -> None:
    entry = hooks.entry(PATH)
    del entry["namespaceSelector"]
    entry["rules"] = [{**entry["rules"][0], "operations": ["UPDATE"], "resources": ["nothing"]}]
    answer = await hooks.create(entry)
    found = answer.body["webhooks"][0]
    assert {name: value for name, value in found.items() if name not in entry} == {
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "Never",
        "timeoutSeconds": 10,
        "namespaceSelector": {},
        "objectSelector": {},
    }
    assert found["rules"][0]["scope"] == "*"
