"""A real API server for tests: etcd, kube-apiserver and kube-controller-manager as child processes on loopback.

    with RealCluster() as cluster:
        status, namespaces = cluster.request("GET", "/api/v1/namespaces")

There is no kubelet and no scheduler: a pod stays Pending unless the test writes its status. For people,
`python -m tests.kube.cluster` starts one until Ctrl-C.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import yaml

from peerpods.errors import LocalFailure
from tests.kube.cluster_http import JSON_PATCH, MERGE_PATCH, Http, Json
from tests.kube.cluster_pki import SERVER_ADDRESSES, SERVER_NAMES, Authority, signing_key
from tests.kube.cluster_process import Keeper, end, free_port, sweep, wait_until
from tests.kube.cluster_route import Router

__all__ = ["JSON_PATCH", "MERGE_PATCH", "RealCluster", "assets", "client_tools", "has_controllers", "version_of"]

TOP = Path(__file__).parents[2]
ADMIN = "admin"
ISSUER = "https://kubernetes.default.svc"
# No node lifecycle or pod garbage collector: nodes of tests have no kubelet, and pods of tests are often on no node.
CONTROLLERS = (
    "garbagecollector", "namespace", "serviceaccount", "serviceaccount-token", "root-ca-cert-publisher",
    "clusterrole-aggregation", "daemonset", "deployment", "replicaset", "job", "disruption", "endpoint",
    "resourcequota",
)  # fmt: skip
_AUDIT = {  # what service accounts and users of tests do; not the admin's doings nor the control plane's
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": [ADMIN, "system:apiserver", "system:kube-controller-manager"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"]},
        {"level": "Metadata"},
    ],
}


def _kube_sh(option: str) -> Path:
    return Path(
        subprocess.run([TOP / "tools/kube.sh", option], check=True, capture_output=True, text=True).stdout.strip()
    )


def assets() -> Path:
    """The folder with etcd and kube-apiserver: KUBEBUILDER_ASSETS, or what tools/kube.sh made.

    Raises:
        LocalFailure: when nothing was made yet.
    """
    folder = _kube_sh("--assets")
    for name in ("etcd", "kube-apiserver"):
        if not os.access(folder / name, os.X_OK):
            raise LocalFailure(f"{folder} has no {name}", remedy="run tools/kube.sh, or make test-kube")
    return folder


def client_tools() -> Path:
    """The folder with kubectl and helm that tools/kube.sh made.

    Raises:
        LocalFailure: when nothing was made yet.
    """
    folder = _kube_sh("--clients")
    for name in ("kubectl", "helm"):
        if not os.access(folder / name, os.X_OK):
            raise LocalFailure(f"{folder} has no {name}", remedy="run tools/kube.sh, or make test-kube")
    return folder


def version_of(folder: Path) -> tuple[int, int]:
    """(major, minor) of the kube-apiserver in a folder."""
    said = subprocess.run([folder / "kube-apiserver", "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"v(\d+)\.(\d+)", said)
    if match is None:
        raise LocalFailure(f"{folder}/kube-apiserver says {said.strip()!r} when asked for its version")
    return int(match[1]), int(match[2])


def has_controllers(folder: Path) -> bool:
    """Whether garbage collection, namespaces' end and workload controllers are there."""
    return os.access(folder / "kube-controller-manager", os.X_OK)


class RealCluster:
    """One cluster, started by `start()` or `with`; every call may come from any thread and blocks.

    A test whose webhook is served by its own reactor must call from a thread (`deferToThread`): the server waits for
    the webhook while the call waits for the server.

    Args:
        folder: where the programs are; `assets()` when None.
        controllers: which of kube-controller-manager's to run, with its own words; none at all when empty.
        apiserver_flags: added to those of kube-apiserver, later wins.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        controllers: Sequence[str] = CONTROLLERS,
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        self._folder = folder or assets()
        self.version = version_of(self._folder)
        self.has_controllers = bool(controllers) and has_controllers(self._folder)
        self._controllers = controllers
        self._flags = apiserver_flags
        self._keeper = Keeper()
        self._lock = threading.Lock()
        self._etcd: subprocess.Popen[bytes] | None = None
        self._apiserver: subprocess.Popen[bytes] | None = None
        self._router: Router | None = None
        self._routes: dict[tuple[str, str, int], int] = {}
        self._manager: subprocess.Popen[bytes] | None = None
        self._manager_lost_server = False
        self.token = secrets.token_urlsafe(24)
        """The token of the admin, a member of system:masters."""

    def start(self) -> Self:
        """Start all and wait until it serves.

        Raises:
            LocalFailure: with the end of the log of what did not come up; nothing is left running.
        """
        sweep("peerpods-kube-")
        self.state = Path(tempfile.mkdtemp(prefix="peerpods-kube-"))
        self._held = (self.state / "lock").open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self._router = Router(self.state, self._behind)
        self.authority = Authority(self.state)
        self.ca_file = self.authority.file
        self._etcd_port, self._port = free_port(), free_port()
        self.host = f"https://127.0.0.1:{self._port}"
        self._http = Http(self.host, self.ca_file)
        self._server_pair = self.authority.issue(
            "apiserver", "kube-apiserver", names=SERVER_NAMES, addresses=SERVER_ADDRESSES
        )
        self._signing = signing_key(self.state)
        (self.state / "tokens.csv").write_text(f'{self.token},{ADMIN},{ADMIN},"system:masters"\n')
        (self.state / "audit.yaml").write_text(json.dumps(_AUDIT))
        try:
            self._start_etcd()
            self.start_apiserver()
            if self.has_controllers:
                self._start_manager()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End all and remove the state. Idempotent."""
        for process in (self._manager, self._apiserver, self._etcd):
            end(process, kill=True)
        self._keeper.close()
        if self._router:
            self._router.close()
            self._router = None
            shutil.rmtree(self.state, ignore_errors=True)
            self._held.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- processes ---

    def log(self, name: str) -> Path:
        """The log of etcd, kube-apiserver or kube-controller-manager; gone after `close()`."""
        return self.state / f"{name}.log"

    @property
    def pids(self) -> Mapping[str, int]:
        """The processes that run now."""
        all_ = {"etcd": self._etcd, "kube-apiserver": self._apiserver, "kube-controller-manager": self._manager}
        return {name: process.pid for name, process in all_.items() if process and process.poll() is None}

    def _start_etcd(self) -> None:
        here, log = f"http://127.0.0.1:{self._etcd_port}", self.log("etcd")
        peer = f"http://127.0.0.1:{free_port()}"
        self._etcd = self._keeper.start(
            [self._folder / "etcd", f"--data-dir={self.state}/etcd", f"--listen-client-urls={here}",
             f"--advertise-client-urls={here}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
             f"--initial-cluster=default={peer}"],
            log,
        )  # fmt: skip

        def ready() -> bool:
            return '"health":"true"' in self._etcd_call("/health")

        wait_until(ready, "etcd did not come up", process=self._etcd, log=log)

    def _etcd_call(self, path: str, body: Json | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._etcd_port}{path}", data, timeout=10) as answer:
            return bytes(answer.read()).decode()

    def start_apiserver(self) -> None:
        """Start it on its port, and wait until it is ready."""
        self._manager_lost_server = True
        private, public = self._signing
        plugins = ["--enable-admission-plugins=NodeRestriction"]
        if not self.has_controllers:  # which would make each namespace's default service account
            plugins.append("--disable-admission-plugins=ServiceAccount")
        with self._lock:
            self._apiserver = self._keeper.start(
                [self._folder / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                 "--bind-address=127.0.0.1", f"--secure-port={self._port}", f"--cert-dir={self.state}",
                 f"--tls-cert-file={self._server_pair[0]}", f"--tls-private-key-file={self._server_pair[1]}",
                 f"--client-ca-file={self.ca_file}", f"--token-auth-file={self.state}/tokens.csv",
                 f"--service-account-key-file={public}", f"--service-account-signing-key-file={private}",
                 f"--service-account-issuer={ISSUER}", f"--api-audiences={ISSUER}",
                 "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
                 f"--egress-selector-config-file={self.state}/egress.json", "--authorization-mode=Node,RBAC",
                 "--allow-privileged=true",
                 f"--audit-policy-file={self.state}/audit.yaml", f"--audit-log-path={self.state}/audit.log",
                 "--profiling=false", *plugins, *self._flags],
                self.log("kube-apiserver"),
            )  # fmt: skip
        wait_until(
            self._ready, "kube-apiserver did not come up", process=self._apiserver, log=self.log("kube-apiserver")
        )

    def _ready(self) -> bool:
        return self.request("GET", "/readyz", timeout=5)[0] == 200

    def stop_apiserver(self, *, kill: bool = False, grace: float = 10.0) -> None:
        """End it: by SIGKILL, or by SIGTERM. A graceful one waits for open watches, at most `grace` seconds here."""
        with self._lock:
            end(self._apiserver, kill=kill, grace=grace)

    def restart_apiserver(self, *, kill: bool = True) -> None:
        """End and start it; its watch caches are new, so that a watch from before is told 410."""
        self.stop_apiserver(kill=kill)
        self.start_apiserver()

    def _start_manager(self) -> None:
        """Start it, also again: after a restart of the API server its watches pause for up to a minute each."""
        end(self._manager, kill=True)
        self._manager_lost_server = False
        private, _ = self._signing
        config = self.kubeconfig("system:kube-controller-manager", groups=["system:masters"])
        flags = ["--port=0"] if self.version < (1, 24) else []  # the plain port, which newer ones do not know
        self._manager = self._keeper.start(
            [self._folder / "kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false",
             "--secure-port=0",
             f"--controllers={','.join(self._controllers)}", f"--root-ca-file={self.ca_file}",
             f"--service-account-private-key-file={private}", *flags],
            self.log("kube-controller-manager"),
        )  # fmt: skip
        wait_until(
            lambda: self._has_account("default"), "kube-controller-manager did not come up",
            process=self._manager, log=self.log("kube-controller-manager"),
        )  # fmt: skip

    def _has_account(self, namespace: str) -> bool:
        """Whether pods of the namespace are admitted: until 1.23 that needs a token of its service account."""
        status, account = self.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        return status == 200 and (self.version >= (1, 24) or bool(account.get("secrets")))

    # --- requests ---

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "", token: str = "", timeout: float = 30.0
    ) -> tuple[int, Any]:
        """Status and decoded answer, as the admin unless a token is given."""
        return self._http.request(method, path, body, content_type, token or self.token, timeout)

    def stream(self, path: str, token: str = "", timeout: float = 30.0) -> Iterator[Json]:
        """The events of a watch: `path` says watch=1, and better timeoutSeconds too."""
        return self._http.stream(path, token or self.token, timeout)

    def as_user(self, user: str, groups: Sequence[str] = ()) -> Http:
        """Requests as somebody else, by a client certificate; a service account is system:serviceaccount:NS:NAME."""
        return Http(self.host, self.ca_file, self._user_pair(user, groups))

    def _user_pair(self, user: str, groups: Sequence[str]) -> tuple[Path, Path]:
        match = re.fullmatch(r"system:serviceaccount:([^:]+):[^:]+", user)
        if match:
            groups = [*groups, "system:serviceaccounts", f"system:serviceaccounts:{match[1]}"]
        return self.authority.issue("user-" + quote(user, safe="") + f"-{secrets.token_hex(3)}", user, groups)

    def kubeconfig(self, user: str = ADMIN, groups: Sequence[str] = ()) -> Path:
        """A file for clients: the admin by token, any other user by client certificate."""
        if user == ADMIN:
            identity: Json = {"token": self.token}
        else:
            pair = self._user_pair(user, groups)
            identity = {"client-certificate": str(pair[0]), "client-key": str(pair[1])}
        return self._write_kubeconfig(user, identity)

    def token_kubeconfig(self, token: str, user: str = "bearer") -> Path:
        """A file for clients with this token, such as one of `service_account_token`."""
        return self._write_kubeconfig(user, {"token": token})

    def _write_kubeconfig(self, user: str, identity: Json) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "clusters": [
                {"name": "test", "cluster": {"server": self.host, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": user, "user": identity}],
        }
        handle, name = tempfile.mkstemp(prefix="kubeconfig-", suffix=".yaml", dir=self.state)
        with os.fdopen(handle, "w") as file:
            yaml.safe_dump(config, file)
        return Path(name)

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token of a service account that exists, as a kubelet would project it."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.must("POST", path, body)["status"]["token"])

    def must(self, method: str, path: str, body: Any = None, content_type: str = "") -> Any:
        """The answer, which must be a success."""
        status, answer = self.request(method, path, body, content_type)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}"
        return answer

    # --- what tests arrange ---

    def create_namespace(self, name: str) -> str:
        """A namespace in which pods can be made; with the name label, which servers before 1.21 do not set."""
        labels = {"kubernetes.io/metadata.name": name}
        self.must("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        if self.has_controllers:
            if self._manager_lost_server:
                self._start_manager()
            what = f"no service account in {name}"
            log = self.log("kube-controller-manager")
            wait_until(lambda: self._has_account(name), what, process=self._manager, log=log)
        return name

    def create_node(self, name: str, labels: Mapping[str, str] = {}, capacity: Mapping[str, str] = {}) -> Json:
        """A ready node without a kubelet."""
        amounts = {"cpu": "8", "memory": "32Gi", "pods": "110", **capacity}
        self.must(
            "POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}}
        )
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "as the test says"}
        status = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
        self.request(  # the taint that admission puts on a new node, which a node lifecycle controller would take off
            "PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE_PATCH
        )
        node: Json = self.must("PATCH", f"/api/v1/nodes/{name}/status", status, MERGE_PATCH)
        return node

    def route(self, namespace: str, service: str, local_port: int, port: int = 443) -> None:
        """From now on the API server finds a loopback port behind a Service: for webhooks that name one.

        The Service may be made later and anew; it needs a port, but no endpoints.
        """
        self._routes[namespace, service, port] = local_port

    def _behind(self, address: str, port: int) -> int | None:
        for (namespace, name, service_port), local in self._routes.items():
            status, service = self.request("GET", f"/api/v1/namespaces/{namespace}/services/{name}")
            if status == 200 and service_port == port and service["spec"].get("clusterIP") == address:
                return local
        return None

    def compact(self) -> int:
        """Drop etcd's history: list continuations from before get 410. Returns the revision. Live watches go on, and
        resumed ones too as long as the API server's cache reaches back: `expire_watches` is for those."""
        answer = json.loads(self._etcd_call("/v3/kv/range", {"key": base64.b64encode(b"x").decode()}))
        revision = int(answer["header"]["revision"])
        self._etcd_call("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def expire_watches(self) -> None:
        """Make every resourceVersion so far too old for a watch, by a killed API server and new objects' revisions."""
        self.stop_apiserver(kill=True)
        self.compact()
        self.start_apiserver()

    def audit(self, user: str) -> list[Json]:
        """What a user other than the admin asked so far: the server's audit events, oldest first."""
        log = self.state / "audit.log"
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [event for event in events if event["user"].get("username") == user]


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started it with SIGINT ignored
        signal.signal(number, lambda *_: done.set())
    with RealCluster() as cluster:
        version = ".".join(map(str, cluster.version))
        print(f"Kubernetes {version} at {cluster.host}; end it with Ctrl-C", file=sys.stderr)
        print(f"export KUBECONFIG={cluster.kubeconfig()}", flush=True)
        done.wait()


if __name__ == "__main__":
    main()
