"""`twistd webhook` as a process, behind a Service of the real API server, with the shipped rights and registration."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from peerpods.kube.peerpodconfig.render.parts import Facts
from peerpods.kube.peerpodconfig.render.webhook import registration
from peerpods.kube.peerpodconfig.spec import parse_config
from tests.kube.cluster_process import free_port
from tests.kube.peerpodconfig.samples import stored

TOP = Path(__file__).parents[3]
LABEL = "test-of-the-webhook"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class Webhook:
    """One replica."""

    def __init__(self, kubeconfig, folder, *flags, number=0):
        self.port, self.http = free_port(), free_port()
        self.log = folder / f"webhook-{number}-{self.port}.log"
        self.command = [
            Path(sys.executable).parent / "twistd", "-n", "--pidfile=", "webhook", f"--listen=127.0.0.1:{self.port}",
            f"--http=127.0.0.1:{self.http}", f"--kubeconfig={kubeconfig}", *flags,
        ]  # fmt: skip
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                list(map(str, self.command)), stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}, cwd="/"
            )
        return self

    def get(self, path):
        """Status and text of the HTTP port; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self, within=60):
        deadline = time.monotonic() + within
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def stop(self, sig=signal.SIGTERM):
        """Seconds that the end took."""
        began = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(30)
        return time.monotonic() - began

    def events(self, name):
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


class Stage:
    """What is around it in the cluster: namespace, rights, Service, registration."""

    def __init__(self, cluster, name, folder):
        self.cluster, self.name, self.folder = cluster, name, folder
        self.made = []
        cluster.create_namespace(name)
        self._rights()
        service = {"metadata": {"name": "peerpods-webhook"}, "spec": {"ports": [{"port": 443}]}}
        self.make(f"/api/v1/namespaces/{name}/services", service)
        token = cluster.service_account_token(name, "peerpods-webhook")
        self.kubeconfig = cluster.token_kubeconfig(token)

    def make(self, path, body):
        status, answer = self.cluster.request("POST", path, body)
        assert status in (201, 409), answer
        if status == 201:
            self.made.append(f"{path}/{body['metadata']['name']}")

    def _rights(self):
        self.make(f"/api/v1/namespaces/{self.name}/serviceaccounts", {"metadata": {"name": "peerpods-webhook"}})
        for obj in yaml.safe_load_all((TOP / "k8s/base/rbac/webhook.yaml").read_text()):
            plural = obj["kind"].lower() + "s"
            for subject in obj.get("subjects", []):
                subject["namespace"] = self.name
            if obj["kind"].startswith("Cluster"):
                obj["metadata"]["name"] = self.name
                if "roleRef" in obj:
                    obj["roleRef"]["name"] = self.name
                for rule in obj.get("rules", []):
                    assert rule["resourceNames"] == ["peerpods-webhook"]
                    rule["resourceNames"] = [self.name]
                self.make(f"/apis/rbac.authorization.k8s.io/v1/{plural}", obj)
            else:
                obj["metadata"]["namespace"] = self.name
                self.make(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.name}/{plural}", obj)

    def register(self, version, **changes):
        """The shipped registration, for namespaces with LABEL=our name only."""
        config = registration(parse_config(stored(**changes)), Facts(version=version, image="x", checksum="x"))
        config["metadata"] = {"name": self.name}
        hook = config["webhooks"][0]
        hook["clientConfig"]["service"]["namespace"] = self.name
        selector = hook["namespaceSelector"]["matchExpressions"]
        selector.append({"key": LABEL, "operator": "In", "values": [self.name]})
        self.make(CONFIGURATIONS, config)
        return config

    def configuration(self):
        return self.cluster.must("GET", f"{CONFIGURATIONS}/{self.name}")

    def namespace(self, name, **labels):
        """A namespace whose pods are shown to the webhook."""
        self.cluster.create_namespace(name)
        self.made.append(f"/api/v1/namespaces/{name}")
        labels = {"metadata": {"labels": {LABEL: self.name, **labels}}}
        self.cluster.must("PATCH", f"/api/v1/namespaces/{name}", labels, "application/merge-patch+json")
        return name

    def webhook(self, *flags, number=0):
        return Webhook(
            self.kubeconfig, self.folder, "--self-managed-tls=true", f"--namespace={self.name}",
            f"--configuration-name={self.name}", f"--identity=replica-{number}", *flags, number=number,
        )  # fmt: skip

    def route(self, webhook):
        self.cluster.route(self.name, "peerpods-webhook", webhook.port)

    def secret(self, name):
        return self.cluster.request("GET", f"/api/v1/namespaces/{self.name}/secrets/{name}")

    def close(self):
        for path in reversed(self.made):
            self.cluster.request("DELETE", path)
        self.cluster.request("DELETE", f"/api/v1/namespaces/{self.name}")


class Injector:
    """A second webhook, which puts a sidecar into pods that ask for one, as service meshes do."""

    def __init__(self, cert, key, sidecar):
        import ssl
        import tempfile

        outer = self
        self.calls = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                body = json.dumps(outer.answer(review, sidecar)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(cert + key)
            file.flush()
            context.load_cert_chain(file.name)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, review, sidecar):
        import base64

        request = review["request"]
        pod = request["object"]
        response = {"uid": request["uid"], "allowed": True}
        wants = (pod["metadata"].get("annotations") or {}).get("inject") == "yes"
        if wants and all(item["name"] != sidecar["name"] for item in pod["spec"]["containers"]):
            patch = [{"op": "add", "path": "/spec/containers/-", "value": sidecar}]
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        self.calls.append(pod["metadata"].get("name"))
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
