"""Each service account may do what its service does, and nothing more: asked of the real API server, for every verb on
every kind that it knows.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from peerpods.adaptor.kube.rights import rules
from peerpods.kube.client.rights import copy_of, role_of
from peerpods.kube.objects import names
from tests.kube.cluster import RealCluster
from tests.kube.cluster_http import APPLY_PATCH
from tests.kube.install import rendered

pytestmark = [pytest.mark.kube, pytest.mark.needs_controllers, pytest.mark.timeout(300)]
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MORE_VERBS = (
    ("impersonate", "", "users"), ("impersonate", "", "groups"), ("impersonate", "", "serviceaccounts"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"), ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"), ("bind", "rbac.authorization.k8s.io", "roles"),
    ("use", "policy", "podsecuritypolicies"), ("approve", "certificates.k8s.io", "signers"),
)  # fmt: skip
EVERYBODY = {
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
    ("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
}
"""What every authenticated user may."""
CRD = "confidentialcontainers.org"
RBAC = "rbac.authorization.k8s.io"
HOOKS = "admissionregistration.k8s.io"
OWN = names.INSTALL_NAMESPACE
Right = tuple[str, str, str]


def _each(verbs: str, group: str, *resources: str) -> set[Right]:
    return {(verb, group, resource) for verb in verbs.split() for resource in resources}


EVERYWHERE: dict[str, set[Right]] = {
    names.ADAPTOR: _each("get list watch", "", "pods", "nodes")
    | _each("update", "", "pods/finalizers")
    | _each("create get list patch delete", CRD, "peerpods")
    | _each("patch", CRD, "peerpods/status")
    | _each("create patch", "events.k8s.io", "events"),
    names.RELAY: set(),
    names.WEBHOOK: set(),
    names.PEER_POD_CTRL: _each("get list watch patch delete", CRD, "peerpods")
    | _each("patch", CRD, "peerpods/status")
    | _each("get", "", "pods", "namespaces")
    | _each("create", RBAC, "clusterroles", "clusterrolebindings")
    | _each("get list watch", "", "nodes")
    | _each("create patch", "events.k8s.io", "events"),
    names.PEER_POD_CONFIG_CTRL: _each("get list watch patch", CRD, "peerpodconfigs")
    | _each("patch", CRD, "peerpodconfigs/status")
    | _each("update", CRD, "peerpodconfigs/finalizers")
    | _each("get list watch delete", CRD, "peerpods")
    | _each("get list watch", "", "nodes")
    | _each("patch", "", "nodes/status")
    | _each("list watch", "", "pods")
    | _each("get", "", "namespaces", "secrets")
    | _each("get list watch create patch delete", "node.k8s.io", "runtimeclasses")
    | _each("create", HOOKS, "mutatingwebhookconfigurations")
    | _each("list watch create", RBAC, "roles", "rolebindings")
    | _each("create", RBAC, "clusterroles", "clusterrolebindings")
    | _each("create patch", "events.k8s.io", "events"),
}
"""Rights on any object, in any namespace: what a service needs, from its own code."""
AT_HOME: dict[str, set[Right]] = {
    names.ADAPTOR: set(),
    names.RELAY: set(),
    names.WEBHOOK: _each("create", "", "secrets") | _each("create", "coordination.k8s.io", "leases"),
    names.PEER_POD_CTRL: _each("create", "coordination.k8s.io", "leases"),
    names.PEER_POD_CONFIG_CTRL: _each("create", CRD, "peerpodconfigs")
    | _each("get list watch", "", "configmaps")
    | _each("get list watch create patch delete", "apps", "daemonsets", "deployments")
    | _each("get list watch create patch delete", "", "services")
    | _each("get list watch create patch delete", "networking.k8s.io", "networkpolicies")
    | _each("get list watch create patch delete", "policy", "poddisruptionbudgets")
    | _each("get create patch delete", "cert-manager.io", "issuers", "certificates")
    | _each("create", "coordination.k8s.io", "leases"),
}
"""More rights on any object in their own namespace."""
Named = tuple[str, str, str, str]


def _copying(account: str) -> set[Named]:
    """A copy of its own ClusterRole and binding."""
    copies = {(v, RBAC, k, copy_of(account)) for v in ("get", "patch") for k in ("clusterroles", "clusterrolebindings")}
    return copies | {("get", RBAC, "clusterroles", role_of(account))}


NAMED: dict[str, set[Named]] = {
    names.ADAPTOR: set(),
    names.RELAY: set(),
    names.WEBHOOK: {
        *((v, HOOKS, "mutatingwebhookconfigurations", names.WEBHOOK) for v in ("get", "list", "watch", "patch")),
        *(
            (v, "", "secrets", secret)
            for v in ("get", "list", "watch", "update", "patch")
            for secret in (names.WEBHOOK_CA_SECRET, names.WEBHOOK_CERT_SECRET)
        ),
        *((v, "coordination.k8s.io", "leases", names.WEBHOOK_CERT_LEASE) for v in ("get", "update")),
    },
    names.PEER_POD_CTRL: {
        ("get", "apiextensions.k8s.io", "customresourcedefinitions", "peerpods.confidentialcontainers.org"),
        ("get", "apps", "deployments", names.PEER_POD_CTRL),
        *((v, "coordination.k8s.io", "leases", names.PEER_POD_CTRL) for v in ("get", "update")),
        *_copying(names.PEER_POD_CTRL),
        *((v, "", "serviceaccounts", names.PEER_POD_CTRL) for v in ("get", "patch")),
    },
    names.PEER_POD_CONFIG_CTRL: {
        *((v, HOOKS, "mutatingwebhookconfigurations", names.WEBHOOK) for v in (*VERBS[:3], "patch", "delete")),
        *(
            (v, RBAC, kind, names.PULL_SECRETS_ROLE)
            for v in ("get", "patch", "delete")
            for kind in ("roles", "rolebindings")
        ),
        *(
            ("get", "apiextensions.k8s.io", "customresourcedefinitions", f"{kind}.confidentialcontainers.org")
            for kind in ("peerpods", "peerpodconfigs")
        ),
        ("patch", "", "configmaps", "peerpodconfig"),
        *((v, "coordination.k8s.io", "leases", names.PEER_POD_CONFIG_CTRL) for v in ("get", "update")),
        *_copying(names.PEER_POD_CONFIG_CTRL),
        *(
            (v, "", "serviceaccounts", w)
            for v in ("get", "patch")
            for w in (names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL)
        ),
    },
}
"""Rights on objects of one name, beyond those above."""


@pytest.fixture(scope="module")
def ruled() -> Iterator[RealCluster]:
    """A cluster with nothing but our accounts, roles and kinds."""
    kinds = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    with RealCluster() as running:
        for one in rendered.kustomized("libvirt"):
            if one["kind"] in (*kinds, "CustomResourceDefinition"):
                _apply(running, one)
        yield running


def _apply(cluster: RealCluster, one: dict[str, Any]) -> None:
    group, _, _ = one["apiVersion"].rpartition("/")
    root = f"/apis/{one['apiVersion']}" if group else f"/api/{one['apiVersion']}"
    space = one["metadata"].get("namespace")
    plural = one["kind"].lower() + "s"
    path = f"{root}/{f'namespaces/{space}/' if space else ''}{plural}/{one['metadata']['name']}?fieldManager=t"
    cluster.must("PATCH", path, one, APPLY_PATCH)


def kinds_of(cluster: RealCluster) -> set[tuple[str, str]]:
    """(group, resource) of everything that the server serves, and of what newer ones do."""
    found = {
        ("cert-manager.io", "issuers"),
        ("cert-manager.io", "certificates"),
        ("policy", "poddisruptionbudgets"),
        ("apps", "statefulsets"),
    }
    paths = {"": "/api/v1"}
    for group in cluster.must("GET", "/apis")["groups"]:
        for version in group["versions"]:
            paths[version["groupVersion"]] = "/apis/" + version["groupVersion"]
    for version, path in paths.items():
        status, listed = cluster.request("GET", path)
        if status == 200:
            found |= {(version.rpartition("/")[0], kind["name"]) for kind in listed["resources"]}
    return found | {("", name) for name in ("pods/finalizers", "nodes/proxy")} | {(CRD, "peerpodconfigs/finalizers")}


class Asker:
    """What an account may: the server's own answers to a token of it, over one connection."""

    def __init__(self, cluster: RealCluster, account: str) -> None:
        host = cluster.host.removeprefix("https://")
        context = ssl.create_default_context(cafile=str(cluster.ca_file))
        self._line = http.client.HTTPSConnection(host, context=context, timeout=30)
        self._token = cluster.service_account_token(OWN, account)
        self.asked = 0

    def _post(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._line.request("POST", f"/apis/authorization.k8s.io/v1/{kind.lower()}s", json.dumps(body), headers)
        answer = self._line.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        assert answer.status == 201, found
        return found["status"]  # type: ignore[no-any-return]

    def may(self, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """SelfSubjectAccessReview."""
        self.asked += 1
        resource, _, sub = resource.partition("/")
        attributes = {
            "verb": verb, "group": group, "resource": resource, "subresource": sub, "namespace": namespace,
            "name": name,
        }  # fmt: skip
        return bool(self._post("SelfSubjectAccessReview", {"resourceAttributes": attributes}).get("allowed"))

    def swept(self, kinds: set[tuple[str, str]], namespace: str) -> set[Right]:
        """All that is allowed on any object, of every verb on every kind."""
        rights = {(verb, group, kind) for verb in VERBS for group, kind in kinds} | set(MORE_VERBS)
        return {right for right in rights if self.may(*right, namespace=namespace)} - EVERYBODY

    def named(self) -> set[Named]:
        """All that is allowed on objects of one name, in our namespace and beyond."""
        rules = self._post("SelfSubjectRulesReview", {"namespace": OWN})["resourceRules"]
        return {
            (verb, group, kind, name)
            for rule in rules
            for verb in rule["verbs"]
            for group in rule.get("apiGroups", [""])
            for kind in rule.get("resources", [])
            for name in rule.get("resourceNames", [])
        }


@pytest.mark.parametrize("account", sorted(EVERYWHERE))
def test_each_account_may_what_it_does_and_nothing_more(account: str, ruled: RealCluster) -> None:
    asker, kinds = Asker(ruled, account), kinds_of(ruled)
    assert len(kinds) > 90
    everywhere, at_home = EVERYWHERE[account], EVERYWHERE[account] | AT_HOME[account]
    assert asker.swept(kinds, "") == everywhere
    assert asker.swept(kinds, OWN) == at_home
    assert asker.named() == NAMED[account]
    for verb, group, kind, name in NAMED[account]:
        assert asker.may(verb, group, kind, OWN, name), (verb, kind, name)
        if (verb, group, kind) not in at_home:
            assert not asker.may(verb, group, kind, OWN, "another"), (verb, kind)
        if (verb, group, kind) not in everywhere:
            assert not asker.may(verb, group, kind, "default", "another"), (verb, kind)
    assert asker.asked > 1000


def test_a_right_too_many_is_found(ruled: RealCluster) -> None:
    body = {
        "metadata": {"name": "too-many"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": names.RELAY, "namespace": OWN}],
    }
    path = f"/apis/{RBAC}/v1/namespaces/{OWN}/rolebindings"
    ruled.must("POST", path, body)
    try:
        asker = Asker(ruled, names.RELAY)
        end = time.monotonic() + 60
        while not asker.may("list", "", "pods", OWN):
            assert time.monotonic() < end
        assert asker.swept({("", "pods")}, OWN) == {(verb, "", "pods") for verb in ("get", "list", "watch")}
    finally:
        ruled.must("DELETE", f"{path}/too-many")


def test_the_adaptors_own_list_of_rights_is_that_of_its_role() -> None:
    role = rendered.by_key(rendered.kustomized("libvirt"))["ClusterRole", "", names.ADAPTOR]
    assert _flat(role["rules"]) == _flat(rules()) == EVERYWHERE[names.ADAPTOR]


def _flat(found: list[dict[str, Any]]) -> set[Right]:
    return {
        (verb, group, kind)
        for rule in found
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
    }
