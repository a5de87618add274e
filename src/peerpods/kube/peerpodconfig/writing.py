"""Writes the status and finalizer of a PeerPodConfig, and tells of changes with events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from peerpods.kube.client import ApiError, KubeApi, PatchKind
from peerpods.kube.objects.conditions import find_condition
from peerpods.kube.objects.resources import PEER_POD_CONFIGS
from peerpods.kube.peerpodconfig import finalizer
from peerpods.kube.peerpodconfig.applier import version_of
from peerpods.kube.peerpodconfig.metrics import CONDITIONS
from peerpods.kube.peerpodconfig.verdicts import READY
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
NOTE_MAX = 1000  # characters of an event's note; the API takes 1024


class Recorder(Protocol):
    """What tells events; never raises or blocks."""

    def event(self, regarding: Any, type: str, reason: str, note: str, action: str = "", related: Any = None) -> None:
        """One event."""


class Writing:
    """Writes only what differs from what was seen, or from what was written since."""

    def __init__(self, kube: KubeApi, recorder: Recorder) -> None:
        self._kube = kube
        self._recorder = recorder
        self._written: dict[str, tuple[str, dict[str, Any]]] = {}
        """uid to (resourceVersion that the store showed, status that we wrote upon it)."""

    def status_before(self, obj: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status as it is known."""
        uid, version = version_of(obj)
        known = self._written.get(uid)
        if known is not None and known[0] == version:
            return known[1]
        return obj.get("status") or {}

    async def status(self, obj: Mapping[str, Any], status: dict[str, Any]) -> bool:
        """Make the status this one; whether something was written.

        Raises:
            ApiError: worth another try.
        """
        before = self.status_before(obj)
        if all(before.get(key) == value for key, value in status.items()):
            return False
        meta = obj["metadata"]
        try:
            await self._kube.patch(
                PEER_POD_CONFIGS,
                meta["name"],
                {"metadata": {"uid": meta["uid"]}, "status": status},
                meta["namespace"],
                kind=PatchKind.MERGE,
                subresource="status",
            )
        except ApiError as error:
            if error.not_found:
                return False
            raise
        uid, version = version_of(obj)
        self._written = {uid: (version, {**before, **status})}
        self._tell(obj, before, status)
        return True

    def _tell(self, obj: Mapping[str, Any], before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        for one in status.get("conditions") or ():
            CONDITIONS.labels(one["type"]).set({"True": 1, "False": 0}.get(one["status"], -1))
        old = find_condition(before.get("conditions") or (), READY) or {}
        new = find_condition(status.get("conditions") or (), READY)
        if new is None or (old.get("status"), old.get("reason")) == (new["status"], new["reason"]):
            return
        log.info("ready_changed", name=obj["metadata"]["name"], status=new["status"], reason=new["reason"])
        self.event(obj, new["status"] == "True", new["reason"], new["message"])

    def event(self, obj: Mapping[str, Any], fine: bool, reason: str, note: str) -> None:
        """An event on the PeerPodConfig."""
        text = note if len(note) <= NOTE_MAX else note[: NOTE_MAX - 1] + "…"
        self._recorder.event(dict(obj), "Normal" if fine else "Warning", reason, text, action="SetUp")

    async def add_finalizer(self, obj: Mapping[str, Any]) -> None:
        """Put our finalizer on.

        Raises:
            ApiError: 422 when the object has changed meanwhile: look again.
        """
        meta = obj["metadata"]
        patch = finalizer.adding(obj)
        await self._kube.patch(PEER_POD_CONFIGS, meta["name"], patch, meta["namespace"], kind=PatchKind.JSON)

    async def remove_finalizer(self, obj: Mapping[str, Any]) -> None:
        """Take our finalizer off; gone already is fine.

        Raises:
            ApiError: 422 when the object has changed meanwhile: look again.
        """
        meta = obj["metadata"]
        try:
            patch = finalizer.removing(obj)
            await self._kube.patch(PEER_POD_CONFIGS, meta["name"], patch, meta["namespace"], kind=PatchKind.JSON)
        except ApiError as error:
            if error.kind_unknown or not error.not_found:
                raise
        log.info("finalizer_removed", name=meta["name"], namespace=meta["namespace"])
