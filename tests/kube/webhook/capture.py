"""Writes tests/fixtures/kube/reviews.jsonl: AdmissionReviews as the real API server sends them, one a line.

python -m tests.kube.webhook.capture
"""

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile

from tests.kube.cluster import RealCluster
from tests.kube.webhook.pods import amounts, container
from tests.kube.webhook.process import CONFIGURATIONS
from tests.kube.webhook.secure import authority, certificate
from tests.kube.webhook.test_real import CLASSES, peer_pod

OUT = Path(__file__).parents[2] / "fixtures/kube/reviews.jsonl"
PROBE = {"httpGet": {"path": "/healthz", "port": 8080}, "initialDelaySeconds": 5, "periodSeconds": 10}


def app(name, cpu, memory, probed=True):
    """A container as a chart would write it."""
    env = [{"name": f"SETTING_{i}", "value": f"value number {i} of this container"} for i in range(12)]
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    probes = {"livenessProbe": PROBE, "readinessProbe": PROBE} if probed else {}
    return container(
        name,
        amounts(cpu, memory),
        amounts(cpu, memory),
        **probes,
        env=env,
        ports=[{"name": "http", "containerPort": 8080}],
        securityContext={"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        volumeMounts=[{"name": "config", "mountPath": "/etc/app"}, {"name": "tmp", "mountPath": "/tmp"}],
    )


def pods():
    """What people run: a small pod, a service, a meshed service, a job with a GPU, a pod of another class."""
    volumes = [{"name": "config", "configMap": {"name": "app"}}, {"name": "tmp", "emptyDir": {}}]
    spec = {
        "volumes": volumes,
        "terminationGracePeriodSeconds": 60,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": "shop"}},
            }
        ],
    }
    gpu = {"nvidia.com/gpu": "1"}
    return [
        peer_pod(container("busybox", amounts("250m", "64Mi"), amounts("500m", "128Mi")), name="busybox"),
        peer_pod(app("shop", "1500m", "2Gi"), name="shop", **spec),
        peer_pod(
            app("shop", "1500m", "2Gi"),
            app("istio-proxy", "100m", "128Mi"),
            name="meshed",
            initContainers=[app("istio-init", "10m", "40Mi", probed=False), app("migrate", "2", "1Gi", probed=False)],
            annotations={f"mesh.example.com/setting-{i}": "on" for i in range(8)},
            **spec,
        ),
        peer_pod(container("train", gpu, gpu), name="train", restartPolicy="Never"),
        peer_pod(app("plain", "1", "1Gi"), name="plain", cls="kata-other", **spec),
    ]


def main():
    """Ask the server for each pod, as a dry run, and keep what it sends."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            review = json.loads(raw)
            bodies.append(raw)
            answer = {k: review[k] for k in ("apiVersion", "kind")}
            body = json.dumps({**answer, "response": {"uid": review["request"]["uid"], "allowed": True}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    ca = authority()
    leaf = certificate(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile("w") as file:
        file.write(leaf.cert + leaf.key)
        file.flush()
        context.load_cert_chain(file.name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = {
        "name": "capture.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_address[1]}/",
            "caBundle": base64.b64encode(ca.cert.encode()).decode(),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    with RealCluster() as cluster:
        space = cluster.create_namespace("shop")
        for name in ("kata-remote", "kata-other"):
            overhead = {"podFixed": amounts("250m", "120Mi")}
            cluster.must("POST", CLASSES, {"metadata": {"name": name}, "handler": name, "overhead": overhead})
        cluster.must("POST", CONFIGURATIONS, {"metadata": {"name": "capture"}, "webhooks": [hook]})
        time.sleep(5)
        bodies.clear()
        for pod in pods():
            cluster.must("POST", f"/api/v1/namespaces/{space}/pods?dryRun=All", pod)
    server.shutdown()
    OUT.write_bytes(b"".join(body.strip() + b"\n" for body in bodies))
    print(f"{len(bodies)} reviews, {[len(body) for body in bodies]} bytes")


if __name__ == "__main__":
    main()
