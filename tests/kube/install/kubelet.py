"""A scheduler and kubelet for one namespace: what a pod's command says runs as a process, with its account's token.

Of several replicas one runs. A pod that is being deleted gets SIGTERM and stays until its process has ended or its
grace is over, as on a node; a pod without a command here (adaptor, relay) is only said to be ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.kube.cluster import MERGE_PATCH, TOP, RealCluster
from tests.kube.cluster_process import free_port

Json = dict[str, Any]
RUN = ("peerpod-ctrl", "peerpodconfig-ctrl", "webhook", "uninstall")
NODE = "worker-1"


class Process:
    """One pod's process."""

    def __init__(self, pod: Json, process: subprocess.Popen[bytes], log: Path, http: int) -> None:
        self.pod, self.process, self.log, self.http = pod, process, log, http
        self.told_at: float | None = None

    def text(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")


class Kubelet:
    """Runs from `start` to `close`, in a thread."""

    def __init__(self, cluster: RealCluster, namespace: str, folder: Path, *, blind: bool = False) -> None:
        """Args:
        blind: pods are ready, but nothing runs.
        """
        self._cluster, self._namespace, self._folder, self._blind = cluster, namespace, folder, blind
        self._running: dict[str, Process] = {}
        self._old: list[Process] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="test-kubelet", daemon=True)
        self.trouble: list[str] = []

    def start(self) -> Kubelet:
        """Begin."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and end what runs."""
        self._end.set()
        self._thread.join(60)
        for one in self._running.values():
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait(10)

    def __enter__(self) -> Kubelet:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, component: str) -> Process:
        """The process of a component, running or ended."""
        found = [one for one in [*self._old, *self._running.values()] if _component(one.pod) == component]
        assert found, f"no process of {component} was ever started; {self.trouble}"
        return found[-1]

    def logs(self) -> str:
        """What all said, for a failed test."""
        parts = [f"--- {_component(one.pod)}\n{one.text()}" for one in [*self._old, *self._running.values()]]
        return "\n".join([*parts, *self.trouble])

    # -- the loop

    def _loop(self) -> None:
        while not self._end.wait(0.2):
            try:
                status, found = self._cluster.request("GET", f"/api/v1/namespaces/{self._namespace}/pods")
                if status == 200:
                    for pod in found["items"]:
                        self._look(pod)
            except (
                OSError,
                AssertionError,
                KeyError,
            ) as error:  # the server is away, or a pod's account is gone already
                self.trouble = [*self.trouble[-50:], repr(error)]

    def _look(self, pod: Json) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        mine = self._running.get(name)
        if pod["metadata"].get("deletionTimestamp"):
            self._take_down(pod, mine)
        elif not pod["spec"].get("nodeName"):
            body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
            self._cluster.request("POST", f"/api/v1/namespaces/{self._namespace}/pods/{name}/binding", body)
        elif phase == "Pending":
            if not self._blind and _component(pod) in RUN and not self._runs(_component(pod)):
                self._running[name] = self._run(pod)
            self._say(pod, {"phase": "Running", "conditions": [_ready(True)]})
        elif mine is not None and mine.process.poll() is not None and phase == "Running":
            ended = "Succeeded" if mine.process.returncode == 0 else "Failed"
            self._say(pod, {"phase": ended, "conditions": [_ready(False)]})

    def _runs(self, component: str) -> bool:
        return any(_component(one.pod) == component for one in self._running.values())

    def _take_down(self, pod: Json, mine: Process | None) -> None:
        if mine is not None and mine.process.poll() is None:
            grace = pod["metadata"].get("deletionGracePeriodSeconds") or 30
            if mine.told_at is None:
                mine.told_at = time.monotonic()
                mine.process.send_signal(signal.SIGTERM)
            if time.monotonic() - mine.told_at < grace:
                return
            mine.process.kill()
        name = pod["metadata"]["name"]
        if mine is not None:
            self._old.append(self._running.pop(name))
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._cluster.request("DELETE", f"/api/v1/namespaces/{self._namespace}/pods/{name}", options)

    def _say(self, pod: Json, status: Json) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod['metadata']['name']}/status"
        self._cluster.request("PATCH", path, {"status": status}, MERGE_PATCH)

    def _run(self, pod: Json) -> Process:
        container, name, component = pod["spec"]["containers"][0], pod["metadata"]["name"], _component(pod)
        command = [*container.get("command", []), *container.get("args", [])]
        command[0] = str(Path(sys.executable).parent / command[0])
        http = free_port()
        if "twistd" in command[0]:
            command.append(f"--http=127.0.0.1:{http}")
        if component == "webhook":
            listen = free_port()
            command.append(f"--listen=127.0.0.1:{listen}")
            self._cluster.route(self._namespace, "peerpods-webhook", listen)
        token = self._cluster.service_account_token(self._namespace, pod["spec"]["serviceAccountName"])
        home = self._folder / name
        (home / "provider").mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(TOP / "src"), "HOME": str(home),
            **self._environment(pod, container),
            "KUBECONFIG": str(self._cluster.token_kubeconfig(token)), "PROVIDER_DIR": str(home / "provider"),
        }  # fmt: skip
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=home
            )
        return Process(pod, process, log, http)

    def _environment(self, pod: Json, container: Json) -> dict[str, str]:
        made: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                path = f"/api/v1/namespaces/{self._namespace}/configmaps/{source['configMapRef']['name']}"
                status, found = self._cluster.request("GET", path)
                made |= found.get("data") or {} if status == 200 else {}
        for variable in container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            made[variable["name"]] = {
                "metadata.name": pod["metadata"]["name"],
                "metadata.namespace": self._namespace,
                "spec.nodeName": NODE,
            }.get(field, variable.get("value", ""))
        return made


def _component(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""))


def _ready(yes: bool) -> Json:
    return {"type": "Ready", "status": "True" if yes else "False"}
