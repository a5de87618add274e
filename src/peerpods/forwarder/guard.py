"""Which calls reach the agent, in which order, with which edits. Pure: no socket, file or clock.

| call                                             | when it passes                                           |
|--------------------------------------------------|----------------------------------------------------------|
| Health/Check, Health/Version                     | always                                                   |
| SetPolicy                                        | once, before CreateSandbox, unless the image forbids it  |
| CreateSandbox                                    | once                                                     |
| CreateContainer                                  | in a sandbox, with an id that no container has           |
| StartContainer                                   | once for a container that was created                    |
| CopyFile                                         | in a sandbox, into the shared folder (`paths`)           |
| DestroySandbox                                   | once                                                     |
| WaitProcess, ReadStdout, ReadStderr, GetOOMEvent | always: after the end they end too                       |
| the others of OPEN                               | until DestroySandbox                                     |
| any other                                        | never                                                    |

The state follows the agent's answers: a call that it refused has not happened. Rules: security.md 6, duties 4 to 7, 9.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import attrs

from peerpods.errors import OutOfOrder, PeerPodError, Refused
from peerpods.forwarder import rewrite, strict
from peerpods.forwarder.paths import Copy, Denied, SharedFolder, may_be_made
from peerpods.ttrpc.status import Code, Status

AGENT = "grpc.AgentService"
HEALTH = "grpc.Health"
ALWAYS = frozenset({"WaitProcess", "ReadStdout", "ReadStderr", "GetOOMEvent"})
OPEN = frozenset(
    {
        "ExecProcess",
        "SignalProcess",
        "UpdateContainer",
        "StatsContainer",
        "PauseContainer",
        "ResumeContainer",
        "RemoveContainer",
        "RemoveStaleVirtiofsShareMounts",
        "GetDiagnosticData",
        "WriteStdin",
        "CloseStdin",
        "TtyWinResize",
        "GetMetrics",
        "GetGuestDetails",
        "GetVolumeStats",
    }
)
CHECKED = frozenset({"SetPolicy", "CreateSandbox", "CreateContainer", "StartContainer", "CopyFile", "DestroySandbox"})
MAX_CONTAINERS = 1024
MAX_ID = 256  # bytes of a container id


class Stage(enum.Enum):
    """Where the sandbox is."""

    NEW = "new"
    CREATING = "creating"
    READY = "ready"
    DESTROYED = "destroyed"


class Container(enum.Enum):
    """Where a container is."""

    CREATING = "creating"
    CREATED = "created"
    STARTED = "started"


@attrs.frozen
class Pass:
    """A call that may reach the agent."""

    payload: bytes | None = None
    """In place of the request's own, which is passed on as it is when this is None."""
    settle: Callable[[bool], None] | None = None
    """To be called with whether the agent answered OK; when the answer is lost, with False."""
    copy: str = ""
    """Path of a CopyFile: the folders on its way must be real ones."""
    folders: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Bind sources (base, components) that are to be made if they are missing."""


_AS_IT_IS = Pass()


class Guard:
    """One sandbox's guard, shared by all connections to its VM.

    Args:
        pod_namespace: path of the network namespace that every container joins.
        policy_refusal: when not empty, SetPolicy is refused with this sentence.
    """

    def __init__(self, pod_namespace: str, policy_refusal: str = "") -> None:
        self._pod_namespace = pod_namespace
        self._policy_refusal = policy_refusal
        self._policy_set = False
        self.stage = Stage.NEW
        self.containers: dict[str, Container] = {}
        self.shared = SharedFolder()
        self.changes = 0
        """Counts up with every change worth keeping over a restart."""
        self._checks: dict[str, Callable[[bytes], Pass]] = {
            "SetPolicy": self._set_policy,
            "CreateSandbox": self._create_sandbox,
            "CreateContainer": self._create_container,
            "StartContainer": self._start_container,
            "CopyFile": self._copy_file,
            "DestroySandbox": self._destroy_sandbox,
        }

    def needs_payload(self, service: str, method: str) -> bool:
        """Whether `check` looks into the request of this call."""
        return service == AGENT and (method in CHECKED or method == "RemoveContainer")

    def check(self, service: str, method: str, payload: bytes = b"") -> Pass | Status:
        """What becomes of a call.

        Args:
            payload: the encoded request; looked into only when `needs_payload` says so.

        Returns:
            Pass, or the status to refuse it with. Never raises.
        """
        try:
            return self._check(service, method, payload)
        except PeerPodError as error:
            return Status(error.code, str(error))
        except ValueError as error:
            return Status(Code.INVALID_ARGUMENT, f"the request of {method} is not sound: {error}")

    def _check(self, service: str, method: str, payload: bytes) -> Pass:
        if service == HEALTH and method in ("Check", "Version"):
            return _AS_IT_IS
        if service == AGENT:
            if method in ALWAYS:
                return _AS_IT_IS
            if method in self._checks or method in OPEN:
                if self.stage is Stage.DESTROYED:
                    raise OutOfOrder(f"{method} after DestroySandbox", remedy="a VM serves one sandbox")
                if method == "RemoveContainer":
                    return self._remove_container(payload)
                return self._checks[method](payload) if method in self._checks else _AS_IT_IS
        raise Denied(
            f"{service[:60]}/{method[:60]} is not among the calls that this VM takes",
            remedy="the forwarder's list of calls (forwarder/guard.py) is closed; a newer pod VM image may know it",
        )

    def _settle(self, done: Callable[[], None], undone: Callable[[], None], counts: int = 1) -> Callable[[bool], None]:
        def settle(ok: bool) -> None:
            (done if ok else undone)()
            self.changes += counts

        return settle

    def _set(self, name: str, value: Any) -> Callable[[], None]:
        return lambda: setattr(self, name, value)

    # Each check leaves the guard in a state in which the same call cannot pass twice while the first is under way.

    def _set_policy(self, payload: bytes) -> Pass:
        if self._policy_refusal:
            raise Denied(self._policy_refusal)
        if self._policy_set or self.stage is not Stage.NEW:
            raise OutOfOrder("SetPolicy passes once, before CreateSandbox", remedy="put the policy into initdata")
        strict.check(_descriptor("SetPolicyRequest"), payload)
        self._policy_set = True
        return Pass(settle=self._settle(lambda: None, self._set("_policy_set", False)))

    def _create_sandbox(self, payload: bytes) -> Pass:
        if self.stage is not Stage.NEW:
            raise OutOfOrder("CreateSandbox passes once", remedy="a VM serves one sandbox")
        strict.check(_descriptor("CreateSandboxRequest"), payload)
        self.stage = Stage.CREATING
        settle = self._settle(self._set("stage", Stage.READY), self._set("stage", Stage.NEW))
        return Pass(rewrite.clear_dns(payload), settle)

    def _destroy_sandbox(self, payload: bytes) -> Pass:
        before = self.stage
        self.stage = Stage.DESTROYED
        return Pass(settle=self._settle(lambda: None, self._set("stage", before)))

    def _need_sandbox(self, method: str) -> None:
        if self.stage is not Stage.READY:
            raise OutOfOrder(f"{method} before CreateSandbox", remedy="CreateSandbox must have succeeded")

    def _create_container(self, payload: bytes) -> Pass:
        self._need_sandbox("CreateContainer")
        strict.check(_descriptor("CreateContainerRequest"), payload)
        name = rewrite.container_id(payload)
        if not name or len(name.encode()) > MAX_ID:
            raise Refused(f"CreateContainer needs a container id of 1 to {MAX_ID} bytes")
        if name in self.containers:
            raise OutOfOrder(f"a container with the id {name} is there already", remedy="remove it first")
        if len(self.containers) >= MAX_CONTAINERS:
            raise Refused(f"the sandbox has {MAX_CONTAINERS} containers, more are not taken")
        edited = rewrite.set_network_namespace(payload, self._pod_namespace)
        made = [place for place in map(may_be_made, rewrite.bind_sources(payload)) if place is not None]
        self.containers[name] = Container.CREATING
        settle = self._settle(self._become(name, Container.CREATED), self._become(name, None))
        return Pass(edited, settle, folders=tuple(made))

    def _become(self, name: str, state: Container | None) -> Callable[[], None]:
        def become() -> None:
            if state is None:
                self.containers.pop(name, None)
            else:
                self.containers[name] = state

        return become

    def _start_container(self, payload: bytes) -> Pass:
        name = rewrite.container_id(payload)
        state = self.containers.get(name)
        if state is not Container.CREATED:
            what = "has been started" if state is Container.STARTED else "has not been created"
            raise OutOfOrder(f"StartContainer of a container that {what}: {name[:80]}")
        self.containers[name] = Container.STARTED
        return Pass(settle=self._settle(lambda: None, self._become(name, Container.CREATED)))

    def _remove_container(self, payload: bytes) -> Pass:
        name = rewrite.container_id(payload)
        return Pass(settle=self._settle(self._become(name, None), lambda: None))

    def _copy_file(self, payload: bytes) -> Pass:
        self._need_sandbox("CopyFile")
        strict.check(_descriptor("CopyFileRequest"), payload)
        request = _messages().CopyFileRequest.FromString(payload)
        copy: Copy = self.shared.check(request.path, request.file_mode, request.data, request.file_size, request.offset)
        before = self.shared.passed(copy)
        settle = self._settle(lambda: None, lambda: self.shared.failed(copy, before), counts=0)
        return Pass(settle=settle, copy=copy.path)

    # Over a restart of the forwarder

    def snapshot(self) -> dict[str, Any]:
        """What must outlive this process, as plain JSON values. Calls under way count as not done.

        What was copied is not in it: the shared folder itself tells where links are (`effects.on_real_folders`).
        """
        stage = {Stage.CREATING: Stage.NEW}.get(self.stage, self.stage)
        return {
            "stage": stage.value,
            "policy_set": self._policy_set,
            "containers": {
                name: state.value for name, state in self.containers.items() if state is not Container.CREATING
            },
            "total": self.shared.total,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take over what another process of this VM's forwarder left.

        Raises:
            KeyError, ValueError, TypeError: when it is not a snapshot; the guard is then as it was.
        """
        stage = Stage(snapshot["stage"])
        containers = {str(name): Container(state) for name, state in snapshot["containers"].items()}
        total = int(snapshot["total"])
        self._policy_set = bool(snapshot["policy_set"])
        self.stage, self.containers = stage, containers
        self.shared.total = total


def _messages() -> Any:
    """The generated messages, loaded with the first call that needs them: they cost memory and start-up time."""
    from peerpods.protocols import agent_pb2

    return agent_pb2


def _descriptor(name: str) -> Any:
    return _messages().DESCRIPTOR.message_types_by_name[name]
