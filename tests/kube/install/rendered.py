"""What kustomize and Helm make of k8s/, as objects."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.kube.cluster import client_tools

TOP = Path(__file__).parents[3]
K8S = TOP / "k8s"
OVERLAYS = ("aws", "libvirt")
Object = dict[str, Any]
Key = tuple[str, str, str]


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, how) for tag, how in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def objects(text: str) -> list[Object]:
    """The objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, _Loader) if document]


def run(program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """kubectl or helm, without a cluster."""
    done = subprocess.run(
        [client_tools() / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"},
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@functools.cache
def kustomize_text(overlay: str) -> str:
    """`kubectl kustomize` of one overlay."""
    return run("kubectl", "kustomize", K8S / "overlays" / overlay).stdout


def kustomized(overlay: str) -> list[Object]:
    """The objects of one overlay."""
    return objects(kustomize_text(overlay))


def charted(*arguments: str, hooks: bool = False) -> list[Object]:
    """The objects of the chart; those of its hooks too, or not."""
    text = run("helm", "template", "peerpods", K8S / "chart", *arguments).stdout
    return [o for o in objects(text) if hooks or not is_hook(o)]


def for_overlay(overlay: str) -> tuple[str, ...]:
    """Arguments with which the chart makes what an overlay makes."""
    return ("--values", str(K8S / f"chart/providers/{overlay}.yaml"))


def is_hook(made: Object) -> bool:
    """Whether Helm runs an object at a moment of its own."""
    return "helm.sh/hook" in made["metadata"].get("annotations", {})


def key(made: Object) -> Key:
    """Kind, namespace, name."""
    return made["kind"], made["metadata"].get("namespace", ""), made["metadata"]["name"]


def by_key(made: Iterable[Object]) -> dict[Key, Object]:
    """Objects by kind, namespace and name, each once."""
    found: dict[Key, Object] = {}
    for one in made:
        assert key(one) not in found, f"{key(one)} twice"
        found[key(one)] = one
    return found


def pods(made: Iterable[Object]) -> dict[Key, Object]:
    """The pod specs among the objects, by their owner."""
    return {key(o): o["spec"]["template"]["spec"] for o in made if o["kind"] in ("Deployment", "DaemonSet", "Job")}
