"""Pods as a busy cluster has them: about 6 KB of JSON each, half of it managedFields; and a server of many."""

import json
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
IMAGE = "example.org/team/app-{i}@sha256:{digest}"


def _fields(depth):
    """managedFields as deep as those of a kubelet."""
    return {f"f:{name}": {"f:type": {}, "f:status": {}, "f:reason": {}} for name in "abcdefghijkl"[:depth]}


def pod(number, version, phase="Running"):
    """One pod, unlike any other where real ones are."""
    uid = str(uuid.UUID(int=number + (1 << 100)))
    digest = uid.replace("-", "") * 2
    node, ip = f"worker-{number % 200:03}.example.org", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    containers, statuses = [], []
    for i in range(3):
        containers.append(
            {
                "name": f"container-{i}",
                "image": IMAGE.format(i=i, digest=digest),
                "args": ["--listen=:8080", f"--id={uid}", "--log-level=info"],
                "env": [{"name": f"SETTING_{k}", "value": f"{number}-{k}"} for k in range(6)],
                "ports": [{"containerPort": 8080 + i, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m"}},
                "volumeMounts": [{"name": "token", "readOnly": True, "mountPath": "/var/run/secrets/token"}],
                "terminationMessagePath": "/dev/termination-log",
                "imagePullPolicy": "IfNotPresent",
            }
        )
        statuses.append(
            {
                "name": f"container-{i}",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "ready": True,
                "restartCount": 0,
                "imageID": IMAGE.format(i=i, digest=digest),
                "containerID": f"containerd://{digest}",
                "started": True,
            }
        )
    conditions = [{"type": c, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for c in CONDITIONS]
    manager = {"operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1"}
    return {
        "metadata": {
            "name": f"app-{number}-7d4b9c6f5-{uid[-5:]}",
            "generateName": f"app-{number}-7d4b9c6f5-",
            "namespace": f"team-{number % 100}",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"app-{number}", "pod-template-hash": "7d4b9c6f5", "tier": "web"},
            "annotations": {"checksum/config": digest, "network/status": json.dumps([{"ips": [ip]}])},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"app-{number}", "uid": uid}],
            "managedFields": [
                {**manager, "manager": "controller", "fieldsV1": {"f:spec": _fields(12), "f:metadata": _fields(6)}},
                {**manager, "manager": "kubelet", "fieldsV1": {"f:status": _fields(8)}, "subresource": "status"},
            ],
        },
        "spec": {
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "containers": containers,
            "nodeName": node,
            "runtimeClassName": "kata-remote",
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": phase,
            "conditions": conditions,
            "hostIP": f"192.168.{number % 200}.1",
            "podIP": ip,
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": statuses,
        },
    }


class Handler(BaseHTTPRequestHandler):
    """List in pages; a watch sends one change of each pod, then nothing."""

    protocol_version = "HTTP/1.1"
    pods: list[bytes] = []
    changes: list[bytes] = []

    def do_GET(self):
        """A page, the whole, or a watch."""
        asked = parse_qs(urlsplit(self.path).query)
        if "watch" in asked:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            for start in range(0, len(self.changes), 100):
                self.wfile.write(b"".join(self.changes[start : start + 100]))
            self.rfile.read(1)
            return
        start = int(asked.get("continue", ["0"])[0])
        end = start + int(asked.get("limit", [len(self.pods)])[0])
        token = f', "continue": "{end}"' if end < len(self.pods) else ""
        head = f'{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"1"{token}}},"items":['
        body = head.encode() + b",".join(self.pods[start:end]) + b"]}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


def main():
    """`python -m bench.lib.pods COUNT CHANGES`: prints the port, serves until its input ends."""
    count, changes = int(sys.argv[1]), int(sys.argv[2])
    dense = {"separators": (",", ":")}
    Handler.pods = [json.dumps(pod(number, number + 1), **dense).encode() for number in range(count)]
    Handler.changes = [
        json.dumps({"type": "MODIFIED", "object": pod(n % count, count + n, "Succeeded")}, **dense).encode() + b"\n"
        for n in range(changes)
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], sum(map(len, Handler.pods)) // count, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
