"""Who may do what: 401 and 403, and asking for it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api
from tests.kube.conformance.gadgets import config_map

USER = "system:serviceaccount:{}:reader"


async def reader(api: Api) -> str:
    """The token of a service account that may get one config map and watch peer pods."""
    await api.made(r.SERVICE_ACCOUNTS, {"metadata": {"name": "reader"}})
    if api.double:
        user = USER.format(api.namespace)
        api.double.knobs.users = {"secret": user, "": "system:admin"}
        api.double.knobs.authorizer = lambda wanted: (
            wanted.user != user
            or (wanted.verb, wanted.resource, wanted.name) == ("get", "configmaps", "mine")
            or (wanted.verb, wanted.resource, wanted.subresource) == ("patch", "peerpods", "status")
        )
        return "secret"
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get"]},
        {"apiGroups": [r.PEER_PODS.group], "resources": ["peerpods/status"], "verbs": ["patch"]},
    ]
    subjects = [{"kind": "ServiceAccount", "name": "reader", "namespace": api.namespace}]
    ref = {"apiGroup": r.ROLES.group, "kind": "Role", "name": "reader"}
    await api.made(r.ROLES, {"metadata": {"name": "reader"}, "rules": rules})
    await api.made(r.ROLE_BINDINGS, {"metadata": {"name": "reader"}, "roleRef": ref, "subjects": subjects})
    assert api.cluster
    token: str = await deferToThread(api.cluster.service_account_token, api.namespace, "reader")
    return token


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_is_401(api: Api) -> None:
    if api.double:
        api.double.knobs.users = {"right": "me"}
    answer = await api.call("GET", api.path(r.CONFIG_MAPS), token="wrong")
    assert (answer.code, answer.reason) == (401, "Unauthorized")
    watch = await api.call("GET", api.path(r.CONFIG_MAPS, watch="1"), token="wrong")
    assert watch.code == 401


@pytest_twisted.ensureDeferred
async def test_no_right_is_403(api: Api) -> None:
    for name in ("mine", "other"):
        await api.made(r.CONFIG_MAPS, config_map(name))
    token = await reader(api)
    user = USER.format(api.namespace)

    async def may() -> bool:
        return (await api.call("GET", api.path(r.CONFIG_MAPS, "mine"), token=token)).code == 200

    await api.until(may)
    merge: dict[str, Any] = {"content_type": "application/merge-patch+json"}
    for method, path, verb, body in (
        ("GET", api.path(r.CONFIG_MAPS, "other"), "get", None),
        ("GET", api.path(r.CONFIG_MAPS), "list", None),
        ("GET", api.path(r.CONFIG_MAPS, watch="1"), "watch", None),
        ("DELETE", api.path(r.CONFIG_MAPS, "mine"), "delete", None),
        ("PATCH", api.path(r.PEER_PODS, "a"), "patch", {}),
        ("GET", r.NODES.path(), "list", None),
    ):
        answer = await api.call(method, path, body, token=token, **(merge if body is not None else {}))
        assert (answer.code, answer.reason) == (403, "Forbidden"), (method, path)
        assert f'User "{user}" cannot {verb} resource' in answer.body["message"]
    there = await api.call("PATCH", api.path(r.PEER_PODS, "a", "status"), {}, token=token, **merge)
    assert there.code == 404, "allowed, but not there"


@pytest_twisted.ensureDeferred
async def test_asking_whether_one_may(api: Api) -> None:
    token = await reader(api)

    async def asked(verb: str, name: str) -> bool:
        wanted = {"verb": verb, "group": "", "resource": "configmaps", "name": name, "namespace": api.namespace}
        review = {
            "apiVersion": r.ACCESS_REVIEWS.api_version,
            "kind": r.ACCESS_REVIEWS.kind,
            "spec": {"resourceAttributes": wanted},
        }
        answer = await api.call("POST", r.ACCESS_REVIEWS.path(), review, token=token)
        assert answer.code == 201, answer.body
        return bool(answer.body["status"]["allowed"])

    async def may() -> bool:
        return await asked("get", "mine")

    await api.until(may)
    assert not await asked("get", "other")
    assert not await asked("list", "")


@pytest_twisted.ensureDeferred
async def test_version_and_health(api: Api) -> None:
    answer = await api.call("GET", "/version")
    assert answer.code == 200 and answer.body["major"] == "1" and answer.body["minor"]
    for path in ("/healthz", "/readyz", "/livez"):
        assert (await api.call("GET", path)).body == "ok"


@pytest.mark.parametrize("path", ["/nowhere", "/apis/nobody.io/v1/things"])
@pytest_twisted.ensureDeferred
async def test_no_such_path(api: Api, path: str) -> None:
    assert (await api.call("GET", path)).code == 404
