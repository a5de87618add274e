"""Mutating webhooks: who is asked, in which order, when again, and which answers count."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from peerpods.kube.objects import resources as r
from tests.kube.double import patches, pods, rules, selectors
from tests.kube.double.kinds import Kind
from tests.kube.double.objects import Objects, Options
from tests.kube.double.refusal import Refusal
from tests.kube.double.store import Json

Ask = Callable[[Json, Json], Awaitable[tuple[int, bytes]]]
"""(webhook, AdmissionReview) -> HTTP status and body; raises OSError in words."""


class CallFailed(Exception):
    """No usable answer: the failure policy decides."""


@attrs.define
class Review:
    """One write on its way through admission."""

    kind: Kind
    operation: str
    namespace: str
    options: Options
    old: Json | None = None
    subresource: str = ""
    warnings: list[str] = attrs.Factory(list)


class Admission:
    """The chain of admission: built-in plugins, then mutating webhooks."""

    def __init__(self, objects: Objects, ask: Ask) -> None:
        self._objects = objects
        self._ask = ask

    async def admit(self, review: Review, obj: Json) -> Json:
        """The object as it may be stored.

        Raises:
            Refusal: a plugin or webhook denies it, or a webhook failed whose policy is Fail.
        """
        self._plugins(review, obj)
        if review.kind.resource == r.MUTATING_WEBHOOKS:
            return obj
        asked: set[str] = set()
        again: set[str] = set()
        try:
            asked_of = obj
            obj = await self._round(review, obj, asked, again, first=True)
            if obj is not asked_of:
                before = copy.deepcopy(obj)
                self._plugins(review, obj)
                if obj != before:
                    again |= asked
                return await self._round(review, obj, asked, again, first=False)
        except Refusal as refusal:
            refusal.warnings = review.warnings
            raise
        return obj

    def _plugins(self, review: Review, obj: Json) -> None:
        if review.kind.resource == r.PODS and review.operation == "CREATE" and not review.subresource:
            pods.plugins(self._objects.store, obj, review.namespace)

    async def _round(self, review: Review, obj: Json, asked: set[str], again: set[str], *, first: bool) -> Json:
        """Ask each webhook once; in the second round only those before whose answer another one changed the object."""
        for hook in self._hooks(review, obj):
            key = hook["key"]
            if not first and key not in again:
                continue
            again.discard(key)
            before = obj
            obj = await self._one(review, hook, obj)
            if obj is not before:  # any patch counts as a change, also one that changes nothing
                again |= asked
                asked.clear()
            if hook.get("reinvocationPolicy") == "IfNeeded":
                asked.add(key)
        return obj

    def _hooks(self, review: Review, obj: Json) -> list[Json]:
        found = []
        for config in self._objects.store.list(r.MUTATING_WEBHOOKS):
            for hook in config.get("webhooks") or ():
                if self._matches(hook, review, obj):
                    found.append({**hook, "key": f"{config['metadata']['name']}/{hook['name']}"})
        return found

    def _matches(self, hook: Json, review: Review, obj: Json) -> bool:
        resource = review.kind.resource
        plural = f"{resource.plural}/{review.subresource}" if review.subresource else resource.plural
        scope = "Namespaced" if resource.namespaced else "Cluster"
        for rule in hook.get("rules") or ():
            right = (
                _has(rule.get("operations"), review.operation)
                and _has(rule.get("apiGroups"), resource.group)
                and _has(rule.get("apiVersions"), resource.version)
                and (_has(rule.get("resources"), plural) or "*/*" in rule.get("resources", ()))
                and rule.get("scope", "*") in ("*", scope)
            )
            if right:
                break
        else:
            return False
        space = self._objects.store.get(r.NAMESPACES, review.namespace) if review.namespace else None
        labels = (space or {"metadata": {}})["metadata"].get("labels") or {}
        if space and not selectors.matches(hook.get("namespaceSelector"), labels):
            return False
        return selectors.matches(hook.get("objectSelector"), obj["metadata"].get("labels") or {})

    async def _one(self, review: Review, hook: Json, obj: Json) -> Json:
        if review.options.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise Refusal(400, f"admission webhook {json.dumps(hook['name'])} does not support dry run")
        request = _request(review, obj)
        try:
            answer = await self._answer(hook, request)
        except CallFailed as failed:
            if hook.get("failurePolicy", "Fail") == "Ignore":
                return obj
            text = f"Internal error occurred: failed calling webhook {json.dumps(hook['name'])}: {failed}"
            raise Refusal(500, text, details={"causes": [{"message": str(failed)}]}) from failed
        review.warnings += answer.get("warnings") or ()
        if not answer.get("allowed"):
            raise _denial(hook["name"], answer.get("status") or {})
        if not answer.get("patch"):
            return obj
        return self._patched(review, answer, obj)

    async def _answer(self, hook: Json, request: Json) -> Json:
        body = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
        try:
            code, raw = await self._ask(hook, body)
        except OSError as error:
            raise CallFailed(str(error)) from error
        if not 200 <= code < 300:
            raise CallFailed("an error on the server has prevented the request from succeeding")
        try:
            review = json.loads(raw)
            answer: Json = review["response"]
        except (ValueError, KeyError, TypeError) as error:
            raise CallFailed(f"the answer is no AdmissionReview: {error}") from error
        if (review.get("apiVersion"), review.get("kind")) != ("admission.k8s.io/v1", "AdmissionReview"):
            raise CallFailed(f"expected webhook response of admission.k8s.io/v1, got {review.get('apiVersion')}")
        if answer.get("uid") != request["uid"]:
            raise CallFailed(f'expected response.uid="{request["uid"]}", got "{answer.get("uid", "")}"')
        if answer.get("patch") and answer.get("patchType") != "JSONPatch":
            raise CallFailed("webhook returned response.patch but not response.patchType")
        if answer.get("patchType") and not answer.get("patch"):
            raise CallFailed("webhook returned response.patchType but not response.patch")
        try:
            base64.b64decode(answer.get("patch") or "", validate=True)
        except (ValueError, TypeError) as error:
            raise CallFailed(f"response.patch: {error}") from error
        return answer

    def _patched(self, review: Review, answer: Json, obj: Json) -> Json:
        try:
            operations = json.loads(base64.b64decode(answer["patch"]))
            if operations == []:
                return obj
            if not isinstance(operations, list):
                raise ValueError("the patch is no list")
            changed: Any = patches.json_patch(obj, operations)
            rules.fill(review.kind, changed)
        except (patches.PatchFault, ValueError, KeyError, AttributeError, TypeError) as error:
            raise Refusal(500, f"Internal error occurred: {error}") from error
        return dict(changed)


def _has(listed: list[str] | None, word: str) -> bool:
    return "*" in (listed or ()) or word in (listed or ())


def _request(review: Review, obj: Json) -> Json:
    resource = review.kind.resource
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    named = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    about = obj["metadata"]
    shown = copy.deepcopy(obj)
    if review.operation == "CREATE":
        shown["metadata"].pop("namespace", None)
    request = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": named,
        "requestKind": kind,
        "requestResource": named,
        "operation": review.operation,
        "userInfo": {"username": review.options.user, "groups": list(review.options.groups)},
        "object": shown,
        "oldObject": review.old,
        "dryRun": review.options.dry_run,
        "options": _options(review),
    }
    if about.get("name"):
        request["name"] = about["name"]
    if review.namespace:
        request["namespace"] = review.namespace
    if review.subresource:
        request["subResource"] = review.subresource
    return request


def _options(review: Review) -> Json:
    found: Json = {"kind": f"{review.operation.title()}Options", "apiVersion": "meta.k8s.io/v1"}
    if review.options.dry_run:
        found["dryRun"] = ["All"]
    if review.options.said_manager:
        found["fieldManager"] = review.options.said_manager
    return found


def _denial(hook: str, status: Json) -> Refusal:
    words = status.get("message") or status.get("reason")
    text = f"admission webhook {json.dumps(hook)} denied the request" + (
        f": {words}" if words else " without explanation"
    )
    code = status.get("code") or 0
    return Refusal(code if code >= 400 else 400, text, reason=status.get("reason", ""))
