"""Mutating webhooks: how they are asked, what they see, and what becomes of their answer."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api, Json
from tests.kube.conformance.gadgets import config_map, pod
from tests.kube.conformance.hook import RULE, Hook, Installed, Script, patching, review

PATH = "/ours"
VM = "kata.peerpods.io/vm"


@pytest_twisted.ensureDeferred
async def test_how_it_is_called(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH, timeoutSeconds=7)
    await api.made(r.PODS, pod("a"))
    await api.made(r.PODS, pod("b"))
    first, second = hook.calls[-2:]
    assert first.line == f"POST {PATH}?timeout=7s HTTP/1.1"
    assert first.headers["user-agent"] == "kube-apiserver-admission"
    assert first.headers["accept"] == "application/json, */*"
    assert first.headers["accept-encoding"] == "gzip"
    assert first.headers["content-type"] == "application/json"
    assert int(first.headers["content-length"]) > 0 and "transfer-encoding" not in first.headers
    assert first.peer == second.peer, "one connection for both"
    assert (first.body["apiVersion"], first.body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert set(first.body) == {"apiVersion", "kind", "request"}
    assert first.request["uid"] != second.request["uid"]


@pytest_twisted.ensureDeferred
async def test_what_a_request_says(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    await api.made(r.PODS, pod("a"))
    request = dict(hook.last.request)
    assert isinstance(request.pop("uid"), str)
    seen = request.pop("object")
    user = request.pop("userInfo")
    assert isinstance(user["username"], str) and "system:masters" in user["groups"]
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    assert request == {
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": "a",
        "namespace": api.namespace,
        "operation": "CREATE",
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    assert (seen["kind"], seen["apiVersion"]) == ("Pod", "v1")


@pytest_twisted.ensureDeferred
async def test_the_object_has_no_uid_yet_and_no_namespace(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    await api.made(r.PODS, pod("a", meta={"labels": {"a": "b"}}))
    about = hook.last.request["object"]["metadata"]
    assert set(about) == {"name", "labels", "creationTimestamp", "managedFields"}
    assert about["managedFields"][0]["operation"] == "Update"
    assert about["creationTimestamp"] is None


@pytest_twisted.ensureDeferred
async def test_a_generated_name_is_not_known_yet(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    made = await api.made(r.PODS, {**pod(), "metadata": {"generateName": "web-"}})
    assert made.meta["name"].startswith("web-") and len(made.meta["name"]) == len("web-12345")
    request = hook.last.request
    assert "name" not in request and request["namespace"] == api.namespace
    assert "name" not in request["object"]["metadata"]
    assert request["object"]["metadata"]["generateName"] == "web-"


@pytest_twisted.ensureDeferred
async def test_the_object_is_filled_in_before(api: Api, hook: Hook, hooks: Installed) -> None:
    name = api.unique("class")
    scheduling = {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata", "operator": "Exists"}]}
    overhead = {"podFixed": {"cpu": "250m", "memory": "120Mi"}}
    await api.made(
        r.RUNTIME_CLASSES, {"metadata": {"name": name}, "handler": "h", "overhead": overhead, "scheduling": scheduling}
    )
    await hooks.serve(PATH)
    limits = {"cpu": "2", "memory": "1Gi"}
    wanted = pod("a", resources={"limits": limits}, runtimeClassName=name, nodeSelector={"disk": "ssd"})

    async def admitted() -> bool:  # the class is known to admission a moment later
        return (await api.create(r.PODS, wanted)).code == 201

    await api.until(admitted)
    spec = hook.last.request["object"]["spec"]
    assert spec["containers"][0]["resources"] == {"limits": limits, "requests": limits}
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert spec["overhead"] == overhead["podFixed"]
    assert spec["nodeSelector"] == {"disk": "ssd", "kata": "yes"}
    keys = {each["key"] for each in spec["tolerations"]}
    assert keys == {"kata", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert spec["priority"] == 0 and spec["serviceAccountName"] == "default"
    assert (spec["restartPolicy"], spec["dnsPolicy"]) == ("Always", "ClusterFirst")
    await api.delete(r.RUNTIME_CLASSES, name)


@pytest_twisted.ensureDeferred
async def test_dry_run_is_said(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH, patching({"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}}))
    answer = await api.create(r.PODS, pod("a"), dryRun="All")
    assert answer.code == 201 and answer.meta["labels"] == {"by": "hook"}
    request = hook.last.request
    assert request["dryRun"] is True
    assert request["options"] == {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "dryRun": ["All"]}
    assert (await api.get(r.PODS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_the_field_manager_is_in_the_options(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    await api.create(r.PODS, pod("a"), fieldManager="somebody")
    assert hook.last.request["options"]["fieldManager"] == "somebody"


@pytest_twisted.ensureDeferred
async def test_an_update_says_old_and_new(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH, rules=[{**RULE, "operations": ["CREATE", "UPDATE"]}])
    made = await api.made(r.CONFIG_MAPS, config_map())
    await api.patch(r.CONFIG_MAPS, "a", {"data": {"a": "2"}})
    request = hook.last.request
    assert (request["operation"], request["name"]) == ("UPDATE", "a")
    assert (request["object"]["data"], request["oldObject"]["data"]) == ({"a": "2"}, {"a": "1"})
    assert request["oldObject"]["metadata"]["uid"] == request["object"]["metadata"]["uid"] == made.meta["uid"]
    assert request["options"]["kind"] == "UpdateOptions", "also of a patch"


@pytest_twisted.ensureDeferred
async def test_warnings_are_headers(api: Api, hooks: Installed) -> None:
    words = ["no good", 'says "so"']
    await hooks.serve(PATH, lambda request: review(request, warnings=words))
    answer = await api.made(r.PODS, pod("a"))
    assert answer.headers["warning"] == ['299 - "no good"', '299 - "says \\"so\\""']
    hooks.hook.scripts[PATH] = lambda request: review(request, allowed=False, warnings=words[:1])
    denied = await api.create(r.PODS, pod("b"), dryRun="All")
    assert denied.code == 400 and denied.headers["warning"] == ['299 - "no good"']


@pytest_twisted.ensureDeferred
async def test_a_patch_is_applied_and_filled_in(api: Api, hooks: Installed) -> None:
    await hooks.serve(
        PATH,
        patching(
            {"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}},
            {"op": "replace", "path": "/spec/containers/0/resources", "value": {"limits": {VM: "1"}}},
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "more", "image": "image:2"}},
        ),
    )
    made = await api.made(r.PODS, pod("a", resources={"limits": {"cpu": "1"}}))
    assert made.meta["annotations"] == {"a/b": "c"}
    first, second = made.body["spec"]["containers"]
    assert first["resources"] == {"limits": {VM: "1"}, "requests": {VM: "1"}}
    assert second["imagePullPolicy"] == "IfNotPresent", "defaults of what the patch brought"


# status of the answer, code, reason, and the end of the message that the user gets
DENIALS: dict[str, tuple[Json | None, int, str, str]] = {
    "words": ({"message": "no room"}, 400, "", "denied the request: no room"),
    "code": ({"code": 418, "message": "a teapot"}, 418, "", "denied the request: a teapot"),
    "reason": ({"code": 403, "reason": "Forbidden"}, 403, "Forbidden", "denied the request: Forbidden"),
    "code of success": ({"code": 200, "message": "so"}, 400, "", "denied the request: so"),
    "nothing": (None, 400, "", "denied the request without explanation"),
}


@pytest.mark.parametrize("status", DENIALS)
@pytest_twisted.ensureDeferred
async def test_a_denial_stands_whatever_the_policy(api: Api, hooks: Installed, status: str) -> None:
    said, code, reason, words = DENIALS[status]
    more = {} if said is None else {"status": said}
    await hooks.serve(PATH, lambda request: review(request, allowed=False, **more), failurePolicy="Ignore")
    answer = await api.create(r.PODS, pod("a"))
    assert (answer.code, answer.reason) == (code, reason), answer.body
    assert answer.body["message"] == f'admission webhook "ours.peerpods.example" {words}'
    assert (await api.get(r.PODS, "a")).code == 404


@pytest_twisted.ensureDeferred
async def test_a_patch_that_does_not_apply_is_an_error_whatever_the_policy(api: Api, hooks: Installed) -> None:
    await hooks.serve(PATH, failurePolicy="Ignore")
    wrong: dict[str, Script] = {
        "nothing there": patching({"op": "remove", "path": "/spec/none"}),
        "test": patching({"op": "test", "path": "/metadata/name", "value": "b"}),
        "no list": lambda request: review(request, patchType="JSONPatch", patch="e30="),
        "no pod": patching({"op": "replace", "path": "/spec/containers", "value": "many"}),
    }
    for what, script in wrong.items():
        hooks.hook.scripts[PATH] = script
        answer = await api.create(r.PODS, pod("a"))
        assert (answer.code, answer.reason) == (500, "InternalError"), (what, answer.body)


@pytest_twisted.ensureDeferred
async def test_others_are_not_asked(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    selectors: Json = {"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}
    exempt = [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [api.namespace]}]
    answer = await hooks.create(
        hooks.entry("/elsewhere", namespaceSelector={"matchExpressions": exempt}),
        hooks.entry("/marked", **selectors),
        hooks.entry("/secrets", rules=[{**RULE, "resources": ["secrets"]}]),
        hooks.entry("/updates", rules=[{**RULE, "operations": ["UPDATE"]}]),
        hooks.entry("/status", rules=[{**RULE, "resources": ["pods/status"]}]),
        hooks.entry("/cluster", rules=[{**RULE, "scope": "Cluster"}]),
    )
    assert answer.code == 201, answer.body

    async def known() -> bool:
        await api.create(r.CONFIG_MAPS, config_map("known"), dryRun="All")
        return "/marked" in hook.order

    await api.until(known)
    hook.calls.clear()
    await api.made(r.PODS, pod("a"))
    await api.made(r.PODS, pod("b", meta={"labels": {"skip": "yes"}}))
    assert hook.order == [PATH, "/marked", PATH]


@pytest_twisted.ensureDeferred
async def test_validation_comes_after(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve(PATH)
    empty = await api.create(r.PODS, {"metadata": {"name": "a"}, "spec": {"containers": []}})
    assert (empty.code, empty.reason) == (422, "Invalid") and empty.cause("spec.containers")
    assert len(hook.order) == 1, "asked nevertheless"
    assert not hook.last.request["object"]["spec"].get("containers")
    hook.scripts[PATH] = patching(
        {"op": "replace", "path": "/spec/containers/0/resources", "value": {"requests": {VM: "1"}}}
    )
    refused = await api.create(r.PODS, pod("a"))
    assert refused.code == 422 and refused.cause("spec.containers[0].resources.limits"), refused.body
    hook.scripts[PATH] = patching({"op": "replace", "path": "/spec/containers/0/image", "value": ""})
    assert (await api.create(r.PODS, pod("a"))).cause("spec.containers[0].image")
    hook.scripts[PATH] = patching({"op": "replace", "path": "/spec/containers", "value": [{"name": "c", "image": "i"}]})
    answer = await api.create(r.PODS, {"metadata": {"name": "a"}, "spec": {"containers": []}})
    assert answer.code == 201, "the webhook mended it"


@pytest_twisted.ensureDeferred
async def test_an_object_that_is_there_is_asked_for_all_the_same(api: Api, hook: Hook, hooks: Installed) -> None:
    await api.made(r.PODS, pod("a"))
    await hooks.serve(PATH)
    assert (await api.create(r.PODS, pod("a"))).code == 409
    assert hook.order == [PATH]


# reinvocation


def plain(name: str) -> Json:
    """A pod to which the plugins add nothing more when a container is injected: no mount of a token."""
    return pod(name, automountServiceAccountToken=False)


def counting(request: Json) -> Any:
    """Ours: an annotation that tells the containers."""
    value = {"count": str(len(request["object"]["spec"]["containers"]))}
    return patching({"op": "add", "path": "/metadata/annotations", "value": value})(request)


def injecting(request: Json) -> Any:
    """A sidecar injector: once."""
    if any(each["name"] == "sidecar" for each in request["object"]["spec"]["containers"]):
        return review(request)
    sidecar = {"name": "sidecar", "image": "sidecar:1"}
    return patching({"op": "add", "path": "/spec/containers/-", "value": sidecar})(request)


# policies of ours and of the injector, and who is called
REINVOCATION: dict[str, tuple[str, str, list[str]]] = {
    "both": ("IfNeeded", "IfNeeded", ["/ours", "/injector", "/ours", "/injector"]),
    "ours": ("IfNeeded", "Never", ["/ours", "/injector", "/ours"]),
    "injector": ("Never", "IfNeeded", ["/ours", "/injector"]),
    "none": ("Never", "Never", ["/ours", "/injector"]),
}


@pytest.mark.parametrize("case", REINVOCATION)
@pytest_twisted.ensureDeferred
async def test_who_is_asked_again(api: Api, hook: Hook, hooks: Installed, case: str) -> None:
    ours, injector, order = REINVOCATION[case]
    await hooks.serve(PATH, reinvocationPolicy=ours)
    await hooks.serve("/injector", reinvocationPolicy=injector)
    hook.scripts.update({PATH: counting, "/injector": injecting})
    made = await api.made(r.PODS, plain("a"))
    assert hook.order == order
    assert made.meta["annotations"]["count"] == str(order.count(PATH))
    assert len({call.request["uid"] for call in hook.calls}) == len(order)
    third = hook.calls[2:3]
    assert all(len(call.request["object"]["spec"]["containers"]) == 2 for call in third)


@pytest_twisted.ensureDeferred
async def test_nobody_is_asked_again_when_nothing_changed_since(api: Api, hook: Hook, hooks: Installed) -> None:
    await hooks.serve("/injector", reinvocationPolicy="IfNeeded")
    await hooks.serve(PATH, reinvocationPolicy="IfNeeded")
    last = patching({"op": "replace", "path": "/metadata/name", "value": "a"})
    cases: list[tuple[Script, Script, int]] = [
        (injecting, review, 2),  # the first changed it, and the last did not
        (review, patching(), 2),  # an empty patch
        (review, last, 3),  # but any operation counts, also one that changes nothing
    ]
    for first, second, calls in cases:
        hook.calls.clear()
        hook.scripts.update({"/injector": first, PATH: second})
        assert (await api.create(r.PODS, plain("a"), dryRun="All")).code == 201
        assert hook.order == ["/injector", PATH, "/injector"][:calls]
