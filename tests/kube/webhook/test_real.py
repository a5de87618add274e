"""The service as a process behind the real API server."""

import base64
import itertools
import json
import signal
import threading
import time

import pytest

from tests.kube.cluster_http import JSON_PATCH, MERGE_PATCH
from tests.kube.webhook.pods import SLOT, amounts, container, memory_of, sizes
from tests.kube.webhook.process import CONFIGURATIONS, Injector, Stage
from tests.kube.webhook.secure import authority, certificate

CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
_count = itertools.count(1)


def peer_pod(*containers, cls="kata-remote", annotations=None, name="", **spec):
    metadata = {"name": name or f"pod-{next(_count)}", "annotations": annotations or {}}
    body = {"runtimeClassName": cls, "containers": list(containers) or [container("a")], **spec}
    if cls is None:
        del body["runtimeClassName"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


@pytest.fixture(scope="module")
def stage(cluster, tmp_path_factory):
    stage = Stage(cluster, "webhook-test", tmp_path_factory.mktemp("webhook"))
    overhead = {"podFixed": amounts("250m", "120Mi")}
    for name in ("kata-remote", "kata-other"):
        body = {"metadata": {"name": name}, "handler": name}
        if name == "kata-remote":
            body["overhead"] = overhead
        stage.make(CLASSES, body)
    stage.register((1, 20))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def webhook(stage):
    one = stage.webhook("--machine-types=t3.*").start()
    stage.route(one)
    one.ready()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def space(stage):
    return stage.namespace("webhook-pods")


def create(cluster, space, pod, query=""):
    return cluster.request("POST", f"/api/v1/namespaces/{space}/pods{query}", pod)


def bundle_of(stage):
    return stage.configuration()["webhooks"][0]["clientConfig"].get("caBundle")


def until(condition, within=60):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, condition()
        time.sleep(0.1)


def admitted(cluster, space):
    return create(cluster, space, peer_pod(), "?dryRun=All")[0] == 201


def test_a_pod_ends_as_it_should(cluster, webhook, space):
    until(lambda: admitted(cluster, space))
    body = peer_pod(
        container("app", amounts("2", "4Gi"), amounts("3", "5Gi")),
        container("tool", amounts("500m")),
        initContainers=[container("init", amounts("1", "6Gi"), amounts("1", "6Gi"))],
    )
    status, pod = create(cluster, space, body)
    assert status == 201, pod
    assert sizes(pod) == ("3", "6144", None)
    resources = [item["resources"] for item in pod["spec"]["containers"]]
    assert resources == [{"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}, {}]
    assert pod["spec"]["initContainers"][0]["resources"] == {}
    assert pod["spec"]["overhead"] == amounts("250m", "120Mi")
    assert memory_of(pod)["containers"]["tool"] == {"requests": {"cpu": "500m"}}
    status, text = webhook.get("/metrics")
    assert status == 200
    assert 'peerpods_webhook_reviews_total{result="mutated"}' in text
    assert "peerpods_webhook_certificate_expiry_timestamp_seconds 1." in text


def test_limit_only_no_request_and_one_of_both(cluster, webhook, space):
    for limits, expected in ((amounts("2"), ("2", "2048", None)), ({}, (None, None, None))):
        status, pod = create(cluster, space, peer_pod(container("a", limits=limits)))
        assert status == 201, pod
        assert sizes(pod) == expected
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {SLOT: "1"}


def test_a_dry_run_is_answered_and_leaves_nothing(cluster, webhook, space):
    body = peer_pod(container("a", amounts("2")))
    status, pod = create(cluster, space, body, "?dryRun=All")
    assert status == 201, pod
    assert sizes(pod)[0] == "2"
    assert cluster.request("GET", f"/api/v1/namespaces/{space}/pods/{body['metadata']['name']}")[0] == 404


def test_warnings_reach_the_terminal(webhook, space, kubectl):
    body = peer_pod(
        hostNetwork=True,
        annotations={"io.katacontainers.config.hypervisor.machine_type": "m5.large"},
        volumes=[{"name": "v", "hostPath": {"path": "/etc"}}],
    )
    done = kubectl("create", "-n", space, "-f", "-", input=json.dumps(body))
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning: peer pod: ")]
    assert len(warnings) == 3, done.stderr
    assert "hostNetwork" in warnings[0]
    assert "m5.large" in warnings[1]
    assert "hostPath" in warnings[2]


def test_what_the_server_itself_refuses(cluster, webhook, space):
    for body, code in (
        (peer_pod(cls="no-such-class"), 403),
        (peer_pod(container("a", amounts("-1"))), 422),
        ({**peer_pod(), "spec": {"runtimeClassName": "kata-remote", "containers": []}}, 422),
        (peer_pod(overhead=amounts("1")), 403),
    ):
        status, answer = create(cluster, space, body)
        assert status == code, answer


def test_huge_pages_and_devices(cluster, webhook, space):
    """Huge pages left beside neither cpu nor memory would be refused; a device's resource stays."""
    more = {"hugepages-2Mi": "4Mi", "example.com/device": "1"}
    status, pod = create(cluster, space, peer_pod(container("a", amounts("1", **more), amounts("1", **more))))
    assert status == 201, pod
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {SLOT: "1", "example.com/device": "1"}


@pytest.mark.parametrize("first", ["aa", "zz"])
def test_an_injected_sidecar_is_counted(cluster, stage, webhook, first):
    ca = authority()
    leaf = certificate(ca)
    injector = Injector(leaf.cert, leaf.key, container("sidecar", amounts("100m"), amounts("100m")))
    space = stage.namespace(f"webhook-inject-{first}")
    config = {
        "metadata": {"name": f"{first}-injector"},
        "webhooks": [
            {
                "name": "inject.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "reinvocationPolicy": "IfNeeded",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
                "clientConfig": {
                    "url": f"https://127.0.0.1:{injector.port}/inject",
                    "caBundle": base64.b64encode(ca.cert.encode()).decode(),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }
        ],
    }
    cluster.must("POST", CONFIGURATIONS, config)
    try:

        def both():
            body = peer_pod(container("app", amounts("3"), amounts("3")), annotations={"inject": "yes"})
            status, pod = create(cluster, space, body, "?dryRun=All")
            return status == 201 and len(pod["spec"]["containers"]) == 2 and SLOT in str(pod)

        until(both)
        body = peer_pod(container("app", amounts("3"), amounts("3")), annotations={"inject": "yes"})
        status, pod = create(cluster, space, body)
        assert status == 201, pod
        assert [item["name"] for item in pod["spec"]["containers"]] == ["app", "sidecar"]
        assert sizes(pod)[0] == "4"
        assert pod["spec"]["containers"][1]["resources"] == {}
        assert pod["spec"]["containers"][0]["resources"] == {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}}
    finally:
        cluster.must("DELETE", f"{CONFIGURATIONS}/{first}-injector")
        injector.close()


def test_a_limit_range_does_not_change_the_size(cluster, stage, webhook):
    """The API server lets LimitRanges fill in defaults once more after a webhook has changed the pod."""
    space = stage.namespace("webhook-limits")
    limit = {"type": "Container", "default": amounts("500m", "512Mi"), "defaultRequest": amounts("500m", "512Mi")}
    cluster.must(
        "POST", f"/api/v1/namespaces/{space}/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [limit]}}
    )
    both = amounts("3", "4Gi")

    def answer():
        return create(cluster, space, peer_pod(container("a", both, both), container("b")), "?dryRun=All")[1]

    until(lambda: answer().get("metadata", {}).get("annotations"))
    until(
        lambda: (
            "512Mi"
            in answer()["metadata"]["annotations"].get("peerpods.confidentialcontainers.org/original-resources", "")
        )
    )
    pod = answer()
    assert sizes(pod)[:2] == ("4", "4608")
    assert [item["resources"] for item in pod["spec"]["containers"]] == [
        {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}},
        {},
    ]


def test_quotas_count_vms_and_cannot_count_cpu(cluster, stage, webhook):
    """Quotas are checked after the webhooks: one of VMs works; one of cpu refuses what has no cpu left, in words."""
    space = stage.namespace("webhook-quota")
    path = f"/api/v1/namespaces/{space}/resourcequotas"

    def quota(**hard):
        cluster.must("POST", path, {"metadata": {"name": "q"}, "spec": {"hard": hard}})
        until(lambda: cluster.must("GET", f"{path}/q").get("status", {}).get("hard") == hard)

    ask = container("a", amounts("1", "1Gi"), amounts("1", "1Gi"))
    until(lambda: admitted(cluster, space))
    quota(**{f"requests.{SLOT}": "1"})
    until(lambda: create(cluster, space, peer_pod(ask))[0] == 201)
    status, answer = create(cluster, space, peer_pod(ask))
    assert status == 403
    assert "exceeded quota" in answer["message"]
    cluster.must("DELETE", f"{path}/q")
    quota(**{"requests.cpu": "10"})

    def refused():
        status, answer = create(cluster, space, peer_pod(ask), "?dryRun=All")
        return status == 403 and "must specify" in answer["message"]

    until(refused)


def test_other_pods_are_not_changed(cluster, webhook, space):
    for cls in ("kata-other", None):
        status, pod = create(cluster, space, peer_pod(container("a", amounts("2")), cls=cls))
        assert status == 201, pod
        assert pod["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
        assert not pod["metadata"].get("annotations")


def test_the_bundle_is_put_right_again(cluster, stage, webhook, space):
    until(lambda: admitted(cluster, space))
    good = bundle_of(stage)
    path = "/webhooks/0/clientConfig/caBundle"
    wrong = [{"op": "replace", "path": path, "value": base64.b64encode(authority().cert.encode()).decode()}]
    for patch in (wrong, [{"op": "remove", "path": path}]):
        cluster.must("PATCH", f"{CONFIGURATIONS}/{stage.name}", patch, JSON_PATCH)
        until(lambda: bundle_of(stage) == good)
    until(lambda: admitted(cluster, space))


def test_only_our_webhook_gets_the_bundle(cluster, stage, webhook):
    config = stage.configuration()
    other = {**config["webhooks"][0], "name": "other.example.com", "failurePolicy": "Ignore"}
    other["clientConfig"] = {"service": {"name": "other", "namespace": stage.name, "path": "/mutate-v1-pod"}}
    try:
        cluster.must(
            "PATCH",
            f"{CONFIGURATIONS}/{stage.name}",
            [{"op": "add", "path": "/webhooks/0", "value": other}],
            JSON_PATCH,
        )
        cluster.must(
            "PATCH",
            f"{CONFIGURATIONS}/{stage.name}",
            [{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}],
            JSON_PATCH,
        )
        until(lambda: stage.configuration()["webhooks"][1]["clientConfig"].get("caBundle"))
        assert "caBundle" not in stage.configuration()["webhooks"][0]["clientConfig"]
    finally:
        cluster.must("PATCH", f"{CONFIGURATIONS}/{stage.name}", [{"op": "remove", "path": "/webhooks/0"}], JSON_PATCH)


@pytest.mark.parametrize("name", ["peerpods-webhook-cert", "peerpods-webhook-ca"])
@pytest.mark.parametrize("spoil", [False, True])
def test_a_lost_or_spoilt_secret_is_made_anew(cluster, stage, webhook, space, name, spoil):
    until(lambda: admitted(cluster, space))
    path = f"/api/v1/namespaces/{stage.name}/secrets/{name}"
    before = stage.secret(name)[1]["data"]
    key = "tls.crt" if name.endswith("cert") else "ca.crt"
    if spoil:
        cluster.must("PATCH", path, {"data": {key: base64.b64encode(b"spoilt").decode()}}, MERGE_PATCH)
    else:
        cluster.must("DELETE", path)

    def mended():
        status, secret = stage.secret(name)
        return status == 200 and secret["data"][key] not in (before[key], base64.b64encode(b"spoilt").decode())

    until(mended)
    until(lambda: admitted(cluster, space))
    for _ in range(10):
        assert admitted(cluster, space)


def test_a_dead_webhook_stops_no_pod_of_exempt_namespaces(cluster, stage, webhook, space):
    exempt = stage.namespace("webhook-exempt", **{"peerpods.confidentialcontainers.org/webhook": "disabled"})
    until(lambda: admitted(cluster, space))
    webhook.stop(signal.SIGKILL)
    try:
        status, answer = create(cluster, space, peer_pod())
        assert status == 500
        assert "webhook.peerpods.confidentialcontainers.org" in answer["message"]
        for place in (exempt, "kube-system", stage.name):
            status, answer = create(cluster, place, peer_pod(cls=None), "?dryRun=All")
            assert status == 201, answer
    finally:
        webhook.start().ready()
    until(lambda: admitted(cluster, space))


@pytest.mark.needs_kube(1, 28, reason="matchConditions")
def test_a_dead_webhook_stops_no_pod_of_other_classes(cluster, stage, webhook, space):
    config = stage.configuration()
    from peerpods.kube.peerpodconfig.render.webhook import match_expression
    from peerpods.kube.peerpodconfig.spec import parse_config
    from tests.kube.peerpodconfig.samples import stored

    conditions = [{"name": "runtime-class", "expression": match_expression(parse_config(stored()))}]
    add = {"op": "add", "path": "/webhooks/0/matchConditions", "value": conditions}
    cluster.must("PATCH", f"{CONFIGURATIONS}/{config['metadata']['name']}", [add], JSON_PATCH)
    webhook.stop(signal.SIGKILL)
    try:
        until(lambda: create(cluster, space, peer_pod(cls="kata-other"), "?dryRun=All")[0] == 201)
        assert create(cluster, space, peer_pod(cls=None), "?dryRun=All")[0] == 201
        assert create(cluster, space, peer_pod(), "?dryRun=All")[0] == 500
    finally:
        cluster.must(
            "PATCH",
            f"{CONFIGURATIONS}/{stage.name}",
            [{"op": "remove", "path": "/webhooks/0/matchConditions"}],
            JSON_PATCH,
        )
        webhook.start().ready()


@pytest.mark.needs_kube(1, 29, reason="native sidecars")
def test_native_sidecars_are_added(cluster, webhook, space):
    init = [container("s", amounts("1"), restartPolicy="Always"), container("i", amounts("2500m"))]
    status, pod = create(cluster, space, peer_pod(container("a", amounts("2")), initContainers=init))
    assert status == 201, pod
    assert sizes(pod)[0] == "4"


@pytest.mark.needs_kube(1, 34, reason="pod-level resources")
def test_pod_level_resources_are_the_sum(cluster, webhook, space):
    level = {"requests": amounts("3", "1Gi"), "limits": amounts("5", "2Gi")}
    status, pod = create(cluster, space, peer_pod(container("a", amounts("1")), resources=level))
    assert status == 201, pod
    assert sizes(pod)[:2] == ("5", "2048")
    assert "cpu" not in str(pod["spec"].get("resources"))


class Load:
    """Creates pods (dry run) again and again, and keeps what went wrong."""

    def __init__(self, cluster, space, threads=2):
        self.failures, self.count = [], 0
        self._go_on = True
        self._threads = [threading.Thread(target=self._run, args=(cluster, space)) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, cluster, space):
        while self._go_on:
            try:
                status, answer = create(cluster, space, peer_pod(container("a", amounts("2"))), "?dryRun=All")
            except OSError as error:
                status, answer = 0, repr(error)
            self.count += 1
            if status != 201 or sizes(answer)[0] != "2":
                self.failures.append((status, answer))
            time.sleep(0.02)

    @classmethod
    def none(cls):
        return cls(None, "", threads=0)

    def more(self):
        """Wait until it has created some more."""
        before = self.count
        until(lambda: self.count > before + 15)

    def end(self):
        self._go_on = False
        for thread in self._threads:
            thread.join()


def test_certificates_and_authorities_change_under_load(cluster, stage, webhook, space):
    webhook.stop()
    quick = stage.webhook("--cert-lifetime=10", "--ca-lifetime=30", "--ca-overlap=2", number=7).start()
    stage.route(quick)
    authorities, certificates = set(), set()
    load = Load.none()
    try:
        quick.ready()
        until(lambda: admitted(cluster, space))
        # The first are those of before, which live long: begin with ones that are of this test.
        for name in ("peerpods-webhook-ca", "peerpods-webhook-cert"):
            cluster.must("DELETE", f"/api/v1/namespaces/{stage.name}/secrets/{name}")
            until(lambda: stage.secret(name)[0] == 200)
        until(lambda: len(quick.events("certificate_made")) >= 1)
        until(lambda: admitted(cluster, space))
        time.sleep(1)
        load = Load(cluster, space)
        deadline = time.monotonic() + 120
        while len(authorities) < 2 or len(certificates) < 4:
            assert time.monotonic() < deadline, (len(authorities), len(certificates))
            ca = stage.secret("peerpods-webhook-ca")[1]
            authorities.add(ca["data"]["ca.crt"])
            certificates.add(stage.secret("peerpods-webhook-cert")[1]["data"]["tls.crt"])
            time.sleep(0.3)
        load.end()
        assert load.failures == [], (len(load.failures), load.failures[:2])
        assert load.count > 50
    finally:
        load.end()
        quick.stop()
        stage.route(webhook)
        webhook.start().ready()


def test_two_replicas_one_leaves_without_a_failed_admission(cluster, stage, webhook, space):
    second = stage.webhook(number=1).start()
    load = Load.none()
    try:
        second.ready()
        stage.route(second)
        until(lambda: admitted(cluster, space))
        load = Load(cluster, space)
        load.more()
        # As a rolling update does it: the Service's endpoints change while the old replica is told to end.
        stage.route(webhook)
        assert second.stop() <= 15
        load.more()
        load.end()
        assert load.failures == []
    finally:
        load.end()
        second.stop()
        stage.route(webhook)


def test_the_api_server_may_go_and_come(cluster, stage, webhook, space):
    until(lambda: admitted(cluster, space))
    cluster.restart_apiserver(kill=True)
    until(lambda: admitted(cluster, space))
    assert webhook.get("/readyz")[0] == 200
    cluster.must(
        "PATCH",
        f"{CONFIGURATIONS}/{stage.name}",
        [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}],
        JSON_PATCH,
    )
    until(lambda: bundle_of(stage))
