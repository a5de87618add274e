"""Which volumes work in a peer pod.

The node and the VM share no file system. The shim copies what is mounted (and copies ConfigMaps, Secrets, projected
volumes and the downward API again when they change); emptyDir is made in the VM. All else is a copy made once, at the
start of the container, without sockets and devices, and what the pod writes there never comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peerpods.kube.webhook.notice import Notice, notice

COPIED = frozenset({"configMap", "secret", "projected", "downwardAPI"})
_CLAIMS = frozenset({"persistentVolumeClaim", "ephemeral"})
_COUNTED = _CLAIMS | {"hostPath", "emptyDir", "csi", "nfs", "iscsi", "image", "flexVolume", "gitRepo"}
"""Those that the metric names: a label must not grow with what strangers send."""
_DEVICES = frozenset({"Socket", "CharDevice", "BlockDevice"})
_COPY = "the VM gets a copy of its files at the start, what the pod writes is lost"


def check_volumes(spec: dict[str, Any]) -> Iterator[Notice]:
    """Warnings about `spec.volumes`, one for each sort."""
    found: dict[str, list[str]] = {}
    volumes = spec.get("volumes")
    for volume in volumes if isinstance(volumes, list) else []:
        if isinstance(volume, dict) and (sort := _sort(volume)):
            found.setdefault(sort, []).append(str(volume.get("name", "?")))
    for sort, names in found.items():
        which = f"volume{'s' if len(names) > 1 else ''} {', '.join(sorted(names))} ({sort})"
        if len(which) > 120:
            which = f"{len(names)} volumes ({sort})"
        yield _in_words(sort, which)


def _sort(volume: dict[str, Any]) -> str:
    """The kind of volume, for those that do not simply work."""
    sources = [key for key in volume if key != "name" and volume[key] is not None]
    if not sources or sources[0] in COPIED:
        return ""
    source, details = sources[0], volume[sources[0]]
    details = details if isinstance(details, dict) else {}
    if source == "emptyDir":
        medium = details.get("medium")
        return f"emptyDir {medium}" if isinstance(medium, str) and medium.startswith("HugePages") else ""
    if source == "hostPath" and details.get("type") in _DEVICES:
        return f"hostPath {details['type']}"
    return source


def _in_words(sort: str, which: str) -> Notice:
    source = sort.partition(" ")[0]
    kind = f"volume-{source}" if source in _COUNTED else "volume-other"
    if sort.startswith("emptyDir"):
        return notice(kind, f"{which}: kubelet needs a container with huge pages for it, and a peer pod has none")
    if sort.startswith("hostPath "):
        return notice(kind, f"{which}: it is on the node, and sockets and devices cannot be copied into the VM")
    if sort == "hostPath":
        return notice(kind, f"{which}: the node's files are not in the VM; it gets a copy at the start, nothing back")
    if sort in _CLAIMS:
        return notice(kind, f"{which}: mounted on the node and not in the VM: {_COPY}")
    return notice(kind, f"{which}: it is on the node: {_COPY}")
