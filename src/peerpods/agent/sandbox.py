"""The pod as the agent sees it: one sandbox with shared namespaces, storages and containers."""

# ruff: noqa: ASYNC240  (small files on this machine's tmpfs and procfs: they do not block)
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from peerpods.agent import cgroup, kernel, spec, storage
from peerpods.agent.cgroup import Cgroups
from peerpods.agent.command import run
from peerpods.agent.container import Container, Tools
from peerpods.agent.crun import Crun
from peerpods.agent.oom import OomQueue
from peerpods.agent.process import Process
from peerpods.agent.pull import ImageStore
from peerpods.agent.wait import reap_strays
from peerpods.errors import AlreadyExists, GuestError, NotFound, OutOfOrder, Refused
from peerpods.obs.log import get_logger
from peerpods.protocols import agent_pb2

CONTAINERS_MAX = 256
LOOK_SECONDS = 2.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,255}")
log = get_logger("agent")


class Sandbox:
    """Everything of one pod. All methods run on the reactor; none blocks it for more than milliseconds."""

    def __init__(self, reactor: Any, state: Path, cgroups: Cgroups, *, keep: str = "") -> None:
        """`state`: the agent's own folder. `keep`: what `create` leaves of the base folder (our socket)."""
        self._reactor = reactor
        self._state = state
        self._cgroups = cgroups
        self._keep = keep
        self._tools = Tools(
            reactor=reactor,
            crun=Crun(reactor, state, cgroups=cgroups.version > 0, prefix=cgroup.crun_prefix()),
            cgroups=cgroups,
            state=state,
        )
        self._roots = storage.RootStorage(reactor, state, ImageStore(reactor, state / "images"))
        self._containers: dict[str, Container] = {}
        self._making: set[str] = set()
        self._mounts: list[str] = []
        self._id = ""
        self.oom = OomQueue()

    @property
    def containers(self) -> int:
        """How many containers there are."""
        return len(self._containers)

    async def create(self, request: agent_pb2.CreateSandboxRequest) -> None:
        """Begin the pod: an empty base folder, the shared namespaces, the pod's storages.

        Raises:
            OutOfOrder: when there are containers of a pod already.
        """
        if self._containers or self._making:
            raise OutOfOrder(f"sandbox {self._id} has containers: a VM holds one pod")
        if len(request.hostname.encode()) > 64:
            raise Refused("the host name has more than 64 bytes")
        await self._wipe(storage.BASE)
        self._unpin()
        self._id = request.sandbox_id
        folder = self._state / "ns"
        folder.mkdir(parents=True, exist_ok=True)
        kernel.pin_namespaces(request.hostname or "localhost", str(folder / "uts"), str(folder / "ipc"))
        for wanted in request.storages:
            await self._add_storage(wanted)
        self._reactor.callLater(LOOK_SECONDS, self._look_around, self._id)

    async def _wipe(self, base: str) -> None:
        Path(base).mkdir(parents=True, exist_ok=True)
        for point in kernel.mounts_below(base):
            if point != base:
                kernel.unmount(point)
        stale = [entry.path for entry in os.scandir(base) if entry.path != self._keep]
        if stale:
            await run(self._reactor, ["rm", "-rf", "--", *stale], timeout=60)
        self._mounts.clear()

    def _unpin(self) -> None:
        for name in ("uts", "ipc"):
            kernel.unmount(str(self._state / "ns" / name))

    async def _add_storage(self, wanted: agent_pb2.Storage) -> None:
        if wanted.driver == "ephemeral":
            self._mounts.append(storage.ephemeral(wanted))
        elif wanted.driver == "local":
            storage.local(wanted)
        else:
            raise Refused(
                f"storage driver {wanted.driver[:80]!r} is not known to the development agent",
                remedy="it has " + ", ".join(storage.HANDLERS),
            )

    async def create_container(self, request: agent_pb2.CreateContainerRequest, timeout: float | None) -> None:
        """Make a container, its storages and root first (an image may be pulled). On failure nothing is left.

        Args:
            timeout: seconds the caller will wait, or None.
        """
        container_id = request.container_id
        if not _NAME.fullmatch(container_id):
            raise Refused(f"invalid container id {container_id[:80]!r}")
        if container_id in self._containers or container_id in self._making:
            raise AlreadyExists(f"container {container_id} exists already")
        if len(self._containers) >= CONTAINERS_MAX:
            raise Refused(f"the sandbox has {CONTAINERS_MAX} containers already")
        if not request.OCI.Process.Args:
            raise Refused(f"container {container_id} has no process arguments")
        self._making.add(container_id)
        container = Container(self._tools, container_id, request.OCI, self._place(request))
        try:
            await self._add_storages(container, request, timeout)
            need_root(request.OCI.Root.Path, container_id)
            await container.create()
        except Exception:
            await self._remove_roots(container)
            raise
        finally:
            self._making.discard(container_id)
        self._containers[container_id] = container
        container.init.child.wait().addCallback(lambda _: self._look_at(container))

    async def _add_storages(
        self, container: Container, request: agent_pb2.CreateContainerRequest, timeout: float | None
    ) -> None:
        for wanted in request.storages:
            if wanted.driver == storage.PULL:
                container.rootfs_storages.append(wanted.mount_point)
                args = list(request.OCI.Process.Args)
                await self._roots.guest_pull(wanted, container.id, args, timeout)
            else:
                await self._add_storage(wanted)

    def _place(self, request: agent_pb2.CreateContainerRequest) -> spec.Place:
        own_users = any(entry.Type == "user" for entry in request.OCI.Linux.Namespaces)
        shared = bool(self._id) and not own_users
        pause = self._containers.get(self._id)
        pid = ""
        if request.sandbox_pidns and pause is not None and pause.init.child.status is None:
            pid = f"/proc/{pause.init.child.pid}/ns/pid"
        return spec.Place(
            cgroup=f"/peerpods-{request.container_id}" if self._cgroups.version else "",
            uts=str(self._state / "ns" / "uts") if shared else "",
            ipc=str(self._state / "ns" / "ipc") if shared else "",
            pid=pid,
            cgroup_namespace=self._cgroups.version == 2,
            oom_floor=kernel.oom_floor(),
            controllers=self._cgroups.controllers,
        )

    def container(self, container_id: str) -> Container:
        """A container.

        Raises:
            NotFound: when there is none with this id.
        """
        found = self._containers.get(container_id)
        if found is None:
            raise NotFound(f"invalid container id {container_id[:80]!r}")
        return found

    def process(self, container_id: str, exec_id: str) -> Process:
        """A process of a container.

        Raises:
            NotFound: when there is none.
        """
        if container_id not in self._containers:
            raise NotFound(f"process not found: no container {container_id[:80]!r}")
        return self._containers[container_id].process(exec_id)

    async def remove_container(self, container_id: str) -> None:
        """Kill and remove a container and its root.

        Raises:
            NotFound: when there is none.
        """
        container = self.container(container_id)
        self._look_at(container)
        await container.remove()
        await self._remove_roots(container)
        self._containers.pop(container_id, None)
        self.oom.forget(container_id)

    async def _remove_roots(self, container: Container) -> None:
        for rootfs in container.rootfs_storages:
            await self._roots.remove(container.id, rootfs)

    async def destroy(self) -> None:
        """End the pod: all containers, storages, namespaces. Idempotent. Polls for events fail."""
        for container_id in list(self._containers):
            try:
                await self.remove_container(container_id)
            except GuestError as error:
                log.error(  # noqa: TRY400 (ours has no traceback form)
                    "remove_failed", container=container_id, error=str(error)
                )
        for point in reversed(self._mounts):
            kernel.unmount(point)
        self._mounts.clear()
        self._unpin()
        self._id = ""
        self.oom.close(InterruptedError("the sandbox is destroyed"))

    def stats(self, container_id: str) -> agent_pb2.CgroupStats:
        """Figures of a container."""
        return cgroup.stats(self._cgroups, self.container(container_id).place.cgroup)

    def _look_at(self, container: Container) -> None:
        if container.place.cgroup:
            self.oom.look(container.id, lambda: cgroup.oom_kills(self._cgroups, container.place.cgroup))

    def _look_around(self, sandbox_id: str) -> None:
        """Every two seconds while the pod lives: a kill that does not end a container is told too."""
        if self._id != sandbox_id or not sandbox_id:
            return
        for container in list(self._containers.values()):
            self._look_at(container)
        reap_strays()
        self._reactor.callLater(LOOK_SECONDS, self._look_around, sandbox_id)


def need_root(path: str, container_id: str) -> None:
    """Check that a container's root is there.

    Raises:
        GuestError: when it is not: nobody supplies it without a pull in the guest (spec/wire 4.6).
    """
    if not Path(path).is_dir():
        raise GuestError(
            f"the root {path!r} of container {container_id} does not exist in the VM",
            remedy="let kata pull images in the guest: experimental_force_guest_pull = true",
        )
