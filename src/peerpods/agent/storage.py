"""The storages of CreateSandbox and CreateContainer: tmpfs, folders, and roots pulled in the guest."""

# ruff: noqa: ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from peerpods.agent import kernel, pause
from peerpods.agent.command import CommandFailed, run
from peerpods.agent.pull import ImageStore
from peerpods.errors import GuestError, Refused
from peerpods.obs.log import get_logger
from peerpods.protocols import agent_pb2

BASE = "/run/kata-containers"
HANDLERS = ("ephemeral", "local", "image_guest_pull")
PULL = "image_guest_pull"
COPY_SECONDS = 300.0
log = get_logger("agent")


def check_place(path: str, base: str = BASE) -> str:
    """A mount point below the agent's folder, as plain path.

    Raises:
        Refused: when it lies elsewhere or holds `..`.
    """
    if not path.startswith(base.rstrip("/") + "/") or os.path.normpath(path) != path:
        raise Refused(f"storage mount point {path[:200]!r} is not a plain path below {base}/")
    return path


def ephemeral(storage: agent_pb2.Storage) -> str:
    """Mount a tmpfs or hugetlbfs; gives the mount point. The pod's emptyDir on memory, and /dev/shm.

    A second container of the pod names the same one: what is mounted stays.
    """
    target = check_place(storage.mount_point)
    if os.path.ismount(target):
        return target
    Path(target).mkdir(parents=True, exist_ok=True)
    options = [o for o in storage.options if not o.startswith("fsgid=")]
    flags, data = kernel.split_options(options)
    kernel.mount(storage.source or "tmpfs", target, storage.fstype or "tmpfs", flags, data)
    _group(storage, target)
    return target


def local(storage: agent_pb2.Storage) -> str:
    """Make the folder of an emptyDir on disk; gives its path."""
    target = check_place(storage.mount_point)
    Path(target).mkdir(parents=True, exist_ok=True)
    for option in storage.options:
        if option.startswith("mode="):
            Path(target).chmod(int(option[5:], 8) & 0o7777)
    _group(storage, target)
    return target


def _group(storage: agent_pb2.Storage, target: str) -> None:
    """Give the folder to the pod's fsGroup, when it has one; setgid so that new files inherit it."""
    wanted = [int(o[6:]) for o in storage.options if o.startswith("fsgid=") and o[6:].isdigit()]
    if storage.HasField("fs_group"):
        wanted.append(storage.fs_group.group_id)
    if wanted:
        os.chown(target, -1, wanted[-1])
        Path(target).chmod(Path(target).stat().st_mode & 0o7777 | 0o2070)


def is_sandbox_container(storage: agent_pb2.Storage) -> bool:
    """Whether a guest-pull storage is the pause container's (spec/wire 4.6)."""
    for option in storage.driver_options:
        name, _, value = option.partition("=")
        if name == PULL:
            try:
                metadata = json.loads(value).get("metadata", {})
            except (ValueError, AttributeError):
                continue
            kinds = (
                metadata.get("io.kubernetes.cri.container-type"),
                metadata.get("io.kubernetes.cri-o.ContainerType"),
            )
            if "sandbox" in kinds:
                return True
    return storage.source == "pause"


class RootStorage:
    """Makes and removes containers' roots."""

    def __init__(self, reactor: Any, state: Path, images: ImageStore) -> None:
        self._reactor = reactor
        self._state = state
        self._images = images

    async def guest_pull(
        self, storage: agent_pb2.Storage, container_id: str, args: list[str], timeout: float | None
    ) -> str:
        """A writable root for one container at the storage's mount point.

        Raises:
            GuestError: when the image cannot be had.
        """
        target = Path(check_place(storage.mount_point))
        if is_sandbox_container(storage):
            pause.make_rootfs(target, args)
            return str(target)
        lower = await self._images.rootfs(storage.source, timeout)
        await self._overlay(lower, target, self._state / "overlay" / container_id)
        return str(target)

    async def _overlay(self, lower: Path, target: Path, layers: Path) -> None:
        for folder in (target, layers / "upper", layers / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        # The upper layer is what the container sees as "/": mkdir alone would take our umask.
        (layers / "upper").chmod(lower.stat().st_mode & 0o7777)
        data = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work"
        try:
            kernel.mount("overlay", str(target), "overlay", 0, data)
        except OSError as error:
            log.warning("overlay_unavailable", error=str(error))
            try:
                await run(self._reactor, ["cp", "-a", f"{lower}/.", str(target)], timeout=COPY_SECONDS)
            except CommandFailed as failed:
                raise GuestError(f"cannot copy the image's files to {target}: {failed.output}") from failed

    async def remove(self, container_id: str, rootfs: str) -> None:
        """Undo `guest_pull`; silent about what is not there."""
        kernel.unmount(rootfs)
        layers = self._state / "overlay" / container_id
        argv = ["rm", "-rf", "--", str(layers), rootfs]
        await run(self._reactor, argv, timeout=COPY_SECONDS)
