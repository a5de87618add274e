"""Makes the PeerPodConfig that was installed with us.

No one command can create a kind and an object of it: kubectl and Helm look the kind up before they begin. So
kustomize and Helm install the object as text in a ConfigMap, and it is applied from here, once for each text: the
ConfigMap remembers what was applied, so that a PeerPodConfig that somebody deleted stays deleted, and what somebody
changed by hand stays until the text changes that very field.
"""

from __future__ import annotations

import hashlib
from typing import Any

import yaml

from peerpods.kube.client import ApiError, KubeApi, PatchKind, WorkQueue
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import CONFIG_MAPS, PEER_POD_CONFIGS
from peerpods.obs.log import get_logger

CONFIG_MAP = "peerpodconfig"
KEY = "peerpodconfig.yaml"
APPLIED = f"{names.GROUP}/applied"
"""Annotation of the ConfigMap: the digest of the text that was applied last."""
FIELD_MANAGER = "peerpods-install"
EVERY = 10.0
"""Seconds between two looks."""
SOON = 2.0
"""Seconds until the next look while the PeerPodConfig before is still going."""
log = get_logger("peerpodconfig")


def digest_of(text: str) -> str:
    """What the annotation says of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def body_of(text: str, namespace: str) -> dict[str, Any] | str:
    """The PeerPodConfig to apply, or what is wrong with the text."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"it is not YAML: {error}"
    if not isinstance(found, dict) or found.get("kind") != PEER_POD_CONFIGS.kind:
        return f"it is no {PEER_POD_CONFIGS.kind}"
    if found.get("apiVersion") != PEER_POD_CONFIGS.api_version:
        return f"its apiVersion is not {PEER_POD_CONFIGS.api_version}"
    metadata = found.get("metadata") or {}
    where = metadata.get("namespace") or namespace
    if where != namespace:
        return f"its namespace is {where}, and only {namespace} counts"
    return {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "metadata": {
            "name": metadata.get("name") or names.CONFIG_NAME,
            "namespace": namespace,
            "labels": {**(metadata.get("labels") or {}), "app.kubernetes.io/part-of": names.PART_OF},
            **({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
        },
        "spec": found.get("spec") or {},
    }


class Seed:
    """Looks at the ConfigMap from start to stop; the leader's work."""

    def __init__(self, reactor: Any, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._said = ""
        self._queue = WorkQueue(reactor, self.work, workers=1, base=1.0, cap=60.0, name="seed")

    def start(self) -> None:
        """Begin."""
        self._queue.start()
        self._queue.add(CONFIG_MAP)

    async def stop(self) -> None:
        """End; idempotent."""
        await self._queue.stop(grace=3.0)

    async def work(self, _: str) -> float:
        """One look; seconds until the next.

        Raises:
            ApiError: the PeerPodConfig was refused, or the API server is away.
        """
        try:
            found = await self._kube.get(CONFIG_MAPS, CONFIG_MAP, self._namespace)
        except ApiError as error:
            if error.not_found:
                return EVERY
            raise
        text = (found.get("data") or {}).get(KEY, "")
        digest, metadata = digest_of(text), found["metadata"]
        if (metadata.get("annotations") or {}).get(APPLIED) == digest or metadata.get("deletionTimestamp"):
            return EVERY
        body = body_of(text, self._namespace)
        if isinstance(body, str):
            if self._said != digest:
                log.error("seed_wrong", configmap=f"{self._namespace}/{CONFIG_MAP}", key=KEY, error=body)
                self._said = digest
            return EVERY
        if await self._ending(body["metadata"]["name"]):
            return SOON
        await self._kube.patch(
            PEER_POD_CONFIGS, body["metadata"]["name"], body, self._namespace,
            kind=PatchKind.APPLY, force=True, field_manager=FIELD_MANAGER,
        )  # fmt: skip
        log.info("seed_applied", peerpodconfig=f"{self._namespace}/{body['metadata']['name']}")
        mark = {"metadata": {"uid": metadata["uid"], "annotations": {APPLIED: digest}}}
        await self._kube.patch(CONFIG_MAPS, CONFIG_MAP, mark, self._namespace, kind=PatchKind.MERGE)
        return EVERY

    async def _ending(self, name: str) -> bool:
        """Whether one of that name is being deleted: it must be gone before the next is made."""
        try:
            found = await self._kube.get(PEER_POD_CONFIGS, name, self._namespace)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return bool(found["metadata"].get("deletionTimestamp"))
