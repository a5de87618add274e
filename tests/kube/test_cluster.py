"""The test cluster does what the tests build on."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kube.cluster import MERGE_PATCH, TOP, RealCluster
from tests.kube.cluster_process import sweep

CONFIG_MAPS = "/api/v1/namespaces/{}/configmaps"


def until(ready: Callable[[], Any], timeout: float = 60.0) -> Any:
    """What `ready` returns once it is true."""
    deadline = time.monotonic() + timeout
    while not (found := ready()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {"a": "b"}}


def test_says_its_version(cluster: RealCluster) -> None:
    answer = cluster.must("GET", "/version")
    assert (int(answer["major"]), int(answer["minor"].rstrip("+"))) == cluster.version


def test_pods_are_admitted_in_a_fresh_namespace(cluster: RealCluster, namespace: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    created = cluster.must("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    assert created["status"]["phase"] == "Pending"


def test_a_node_is_ready_and_not_tainted(cluster: RealCluster) -> None:
    node = cluster.create_node("harness-node", {"kind": "worker"}, {"example.org/slots": "3"})
    assert node["metadata"]["labels"]["kind"] == "worker"
    assert node["status"]["allocatable"]["example.org/slots"] == "3"
    assert not node["spec"].get("taints")
    cluster.must("DELETE", "/api/v1/nodes/harness-node")


def test_rights_are_checked_for_users_and_service_accounts(cluster: RealCluster, namespace: str) -> None:
    path = CONFIG_MAPS.format(namespace)
    account = f"system:serviceaccount:{namespace}:default"
    assert cluster.as_user("somebody").request("GET", path)[0] == 403
    assert cluster.as_user("somebody", ["system:masters"]).request("GET", path)[0] == 200
    assert cluster.request("GET", path, token="nonsense")[0] == 401
    token = cluster.service_account_token(namespace, "default")
    assert cluster.request("GET", path, token=token)[0] == 403
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    cluster.must("POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
    cluster.must("POST", f"{rbac}/rolebindings", binding)
    until(lambda: cluster.request("GET", path, token=token)[0] == 200)
    until(lambda: cluster.as_user(account).request("GET", path)[0] == 200)
    asked = [event["verb"] for event in cluster.audit(account)]
    assert asked.count("list") == len(asked) >= 3


def test_kubeconfigs_serve_kubectl_and_helm(cluster: RealCluster, namespace: str, kubectl: Any, helm: Any) -> None:
    kubectl("create", "configmap", "made", "-n", namespace, "--from-literal=a=b")
    assert cluster.must("GET", CONFIG_MAPS.format(namespace) + "/made")["data"] == {"a": "b"}
    assert helm("list", "-n", namespace, "-q").stdout == ""
    config = cluster.kubeconfig("somebody")
    assert "Forbidden" in kubectl("--kubeconfig", config, "get", "pods", "-n", namespace, check=False).stderr


def test_objects_outlive_a_killed_api_server(cluster: RealCluster, namespace: str) -> None:
    path, before = CONFIG_MAPS.format(namespace), cluster.pids["kube-apiserver"]
    cluster.must("POST", path, config_map("kept"))
    cluster.restart_apiserver(kill=True)
    assert cluster.pids["kube-apiserver"] != before
    assert cluster.must("GET", f"{path}/kept")["data"] == {"a": "b"}


def test_a_watch_from_before_is_told_410_by_an_error_event(cluster: RealCluster, namespace: str) -> None:
    path = CONFIG_MAPS.format(namespace)
    old = cluster.must("GET", path)["metadata"]["resourceVersion"]
    for number in range(3):
        cluster.must("POST", path, config_map(f"m{number}"))
    cluster.expire_watches()
    events = list(cluster.stream(f"{path}?watch=1&timeoutSeconds=5&resourceVersion={old}"))
    assert [(event["type"], event["object"]["code"], event["object"]["reason"]) for event in events] == [
        ("ERROR", 410, "Expired")
    ]


def test_a_list_continued_after_a_compaction_is_told_410(cluster: RealCluster, namespace: str) -> None:
    path = CONFIG_MAPS.format(namespace)
    for number in range(4):
        cluster.must("POST", path, config_map(f"m{number}"))
    token = cluster.must("GET", f"{path}?limit=1")["metadata"]["continue"]
    cluster.must("PATCH", f"{path}/m3", {"data": {"a": "c"}}, MERGE_PATCH)
    cluster.compact()
    status, answer = cluster.request("GET", f"{path}?limit=1&continue={token}")
    assert (status, answer["reason"], bool(answer["metadata"]["continue"])) == (410, "Expired", True)


@pytest.mark.needs_controllers
def test_what_a_gone_owner_had_is_collected(cluster: RealCluster, namespace: str) -> None:
    path = CONFIG_MAPS.format(namespace)
    uid = cluster.must("POST", path, config_map("owner"))["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    cluster.must("POST", path, config_map("owned", ownerReferences=[reference]))
    cluster.must("DELETE", f"{path}/owner")
    until(lambda: cluster.request("GET", f"{path}/owned")[0] == 404)


@pytest.mark.needs_controllers
def test_a_deleted_namespace_goes(cluster: RealCluster) -> None:
    cluster.create_namespace("goes")
    cluster.must("DELETE", "/api/v1/namespaces/goes")
    until(lambda: cluster.request("GET", "/api/v1/namespaces/goes")[0] == 404)


@pytest.mark.needs_kube(1, 28, reason="sidecar containers in pods")
def test_restart_policy_of_init_containers_is_known(cluster: RealCluster, namespace: str) -> None:
    containers = [{"name": "c", "image": "i"}]
    sidecar = {"name": "s", "image": "i", "restartPolicy": "Always"}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": [sidecar]}}
    created = cluster.must("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    assert created["spec"]["initContainers"][0]["restartPolicy"] == "Always"


class _Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": {"code": 418, "message": "as routed"}}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def webhook_configuration(namespace: str, ca_file: Path) -> dict[str, Any]:
    service = {"namespace": namespace, "name": "hook", "path": "/", "port": 443}
    ca = base64.b64encode(ca_file.read_bytes()).decode()
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    hook = {
        "name": "hook.example.org",
        "clientConfig": {"service": service, "caBundle": ca},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return {"metadata": {"name": f"hook-{namespace}"}, "webhooks": [hook]}


def test_a_webhook_behind_a_service_is_reached(cluster: RealCluster, namespace: str) -> None:
    pair = cluster.authority.issue("hook", "hook", names=[f"hook.{namespace}.svc"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Webhook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, pair))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    service = {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}}
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    try:
        cluster.must("POST", f"/api/v1/namespaces/{namespace}/services", service)
        cluster.must("POST", hooks, webhook_configuration(namespace, cluster.ca_file))
        asked = (f"{CONFIG_MAPS.format(namespace)}?dryRun=All", config_map("m"))
        until(lambda: cluster.request("POST", *asked)[0] == 500)  # no route yet: failurePolicy Fail
        cluster.route(namespace, "hook", server.server_address[1])
        assert until(lambda: (found := cluster.request("POST", *asked))[0] == 418 and found)[1]["message"].endswith(
            "as routed"
        )
    finally:
        cluster.request("DELETE", f"{hooks}/hook-{namespace}")
        server.shutdown()
        server.server_close()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.kube
def test_nothing_outlives_a_killed_test_run() -> None:
    code = (
        "from tests.kube.cluster import RealCluster\n"
        "import time\n"
        "c = RealCluster().start()\n"
        "print(c.state, *c.pids.values(), flush=True)\n"
        "time.sleep(120)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=TOP, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        state, *words = child.stdout.readline().split()
        pids = [int(word) for word in words]
        assert len(alive(pids)) == len(pids) >= 2
        os.kill(child.pid, signal.SIGKILL)
    until(lambda: not alive(pids))
    sweep("peerpods-kube-")
    assert not Path(state).exists()


@pytest.mark.kube
def test_nothing_is_left_after_a_start_that_fails() -> None:
    cluster = RealCluster(apiserver_flags=["--no-such-flag"])
    with pytest.raises(Exception, match=r"kube-apiserver did not come up: it ended with 1\n(?s:.)*unknown flag"):
        cluster.start()
    assert not cluster.pids
    assert not cluster.state.exists()


def test_an_empty_string_in_a_custom_resource_is_one(cluster: RealCluster, namespace: str) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "empties", "kind": "Empty"}
    spec = {"group": "test.example.org", "scope": "Namespaced", "names": names, "versions": [version]}
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    cluster.must("POST", crds, {"metadata": {"name": "empties.test.example.org"}, "spec": spec})
    try:
        path = f"/apis/test.example.org/v1/namespaces/{namespace}/empties"
        until(lambda: cluster.request("GET", path)[0] == 200)
        head = {"apiVersion": "test.example.org/v1", "kind": "Empty"}
        made = until(
            lambda: (
                (got := cluster.request("POST", path, {**head, "metadata": {"name": "e"}, "spec": {"a": ""}}))[0] != 404
                and got
            )
        )
        assert (made[0], made[1].get("spec")) == (201, {"a": ""})
        assert cluster.request("POST", path, {**head, "metadata": {"name": "n"}, "spec": {"a": 3}})[0] == 422
    finally:
        cluster.must("DELETE", f"{crds}/empties.test.example.org")
