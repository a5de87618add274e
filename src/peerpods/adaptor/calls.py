"""The three calls of the shim, as life cycle events: what is checked, what is waited for, what a lost caller means."""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from peerpods.adaptor import events as ev
from peerpods.adaptor.effects import Question
from peerpods.adaptor.events import Cause
from peerpods.adaptor.executor import World
from peerpods.adaptor.ports import Notice, PodFacts
from peerpods.adaptor.requests import Create, parse_create, start_budget
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import LIVE, Sandbox, Secrets
from peerpods.errors import DeadlineExceeded, Refused
from peerpods.model import Phase, Pod, SandboxId, instance_name, parse_sandbox_id
from peerpods.obs.log import get_logger

log = get_logger("adaptor")
ANSWER_GRACE = 8.0
"""Seconds beyond a start's budget for its error to be put together (console); less than `requests.MARGIN`."""


@attrs.frozen(kw_only=True)
class Policy:
    """What the settings say about every sandbox."""

    pods_dir: str
    start_timeout: float = 200.0
    keep_failed: float = 0.0
    default_initdata: str = attrs.field(default="", repr=False)
    """Plain TOML for pods that bring none."""


class Calls:
    """CreateVM, StartVM and StopVM without their wire."""

    def __init__(self, reactor: IReactorTime, world: World, runner: Runner, policy: Policy) -> None:
        self._reactor = reactor
        self._world = world
        self._runner = runner
        self._policy = policy
        self._reserved: set[int] = set()
        """Network ids of CreateVM calls that are not yet written down."""
        self._drafts: set[SandboxId] = set()
        """Sandboxes of such calls."""

    async def create(self, sandbox: str, annotations: dict[str, str], netns: str) -> str:
        """CreateVM: the path of the agent socket, listening. Cancelling is the shim's end, so the sandbox's too.

        Raises:
            Refused: the request cannot be served (id, annotations, namespace, user data too large).
            CallFailed: the life cycle's answer.
            LocalFailure: it cannot be written down; nothing is left of it.
        """
        begun = self._reactor.seconds()
        request = parse_create(sandbox, annotations, netns, self._policy.pods_dir)
        known = self._runner.sandboxes.get(request.id)
        draft: Sandbox | None = None
        secrets: Secrets | None = None
        try:
            if known is None or known.phase is Phase.GONE:
                self._check_limit(request)
                self._drafts.add(request.id)
                draft, secrets = await self._draft(request)
            waiting = self._runner.ask(
                request.id,
                Question.CREATE,
                lambda call: ev.CreateRequested(
                    at=self._world.now(), call=call, digest=request.digest, draft=draft, secrets=secrets
                ),
                begun=begun,
            )
            await self._or_lost(request.id, Question.CREATE, waiting)
        finally:
            self._drafts.discard(request.id)
            if draft is not None:
                self._reserved.discard(draft.vni)
        return request.agent_socket

    def _check_limit(self, request: Create) -> None:
        """Refuse a sandbox too many. One whose VM is only being deleted has made room, as its pod has."""
        limit = self._world.cluster.limit()
        if limit is None:
            return
        serving = {s.id for s in self._runner.living() if s.phase in LIVE} | self._drafts - {request.id}
        if len(serving) < limit.count:
            return
        text = f"this node runs {len(serving)} peer pods, its limit is {limit.count}, set by {limit.where}"
        self._world.cluster.tell(request.pod, Notice.LIMIT, text)
        raise Refused(
            f"sandbox {request.id} of pod {request.pod.namespace}/{request.pod.name} is one too many: {text}",
            sandbox=request.id,
            remedy="raise the limit, or let the pod be placed on another node",
        )

    async def _draft(self, request: Create) -> tuple[Sandbox, Secrets]:
        """Gather the facts of a new sandbox. Nothing is made, so nothing has to be undone."""
        network = await self._world.network.inspect(request.netns)
        facts = await self._world.cluster.pod_facts(request.pod)
        name = instance_name(request.pod.name, request.id)
        secrets = Secrets(
            keys=self._world.keys.issue(name),
            initdata=request.initdata or self._policy.default_initdata,
            auth_json=facts.auth_json,
        )
        draft = Sandbox(
            id=request.id,
            digest=request.digest,
            pod=request.pod.name,
            namespace=request.pod.namespace,
            pod_uid=facts.uid,
            netns=request.netns,
            agent_socket=request.agent_socket,
            server_name=name,
            spec=request.spec,
            network=network,
            vni=await self._choose_vni(),
            provider=self._world.provider.name,
            keep_failed=self._policy.keep_failed,
        )
        try:
            self._check_size(draft, secrets, facts)
        except BaseException:
            self._reserved.discard(draft.vni)
            raise
        return draft, secrets

    async def _choose_vni(self) -> int:
        while True:
            used = {s.vni for s in self._runner.living()} | self._reserved
            vni = await self._world.network.choose_vni(used)
            # Another call may have chosen the same one while the devices were looked at.
            if vni not in self._reserved and all(s.vni != vni for s in self._runner.living()):
                self._reserved.add(vni)
                return vni

    def _check_size(self, draft: Sandbox, secrets: Secrets, facts: PodFacts) -> None:
        size = len(self._world.user_data.compose(draft, secrets))
        limit = self._world.provider.capabilities().max_user_data
        if size <= limit:
            return
        cluster, pod = self._world.cluster, Pod(name=draft.pod, namespace=draft.namespace, uid=draft.pod_uid)
        text = f"has {size} bytes, provider {draft.provider} takes {limit}"
        remedy = "make the pod's initdata or the registry credentials smaller"
        cluster.tell(pod, Notice.USER_DATA, f"the VM's user data {text} ({remedy})")
        if facts.pull_secrets:
            names = ", ".join(facts.pull_secrets)
            bytes_of = f"the credentials of pull secrets {names} have {len(facts.auth_json.encode())} bytes"
            cluster.tell(pod, Notice.PULL_SECRET, f"{bytes_of}; with them the VM's user data {text}")
        raise Refused(f"the user data of sandbox {draft.id} {text}", sandbox=draft.id, remedy=remedy)

    async def start(self, sandbox: str, remaining: float | None) -> None:
        """StartVM: returns when the agent in the VM answers.

        Args:
            remaining: seconds that the caller still waits; None for no limit.

        Raises:
            CallFailed: naming the phase, the cloud's words and the console's last lines.
            DeadlineExceeded: when not even the error could be put together in time.
        """
        identity = parse_sandbox_id(sandbox)
        budget = start_budget(remaining, self._policy.start_timeout)

        def late(_result: object, _timeout: float) -> None:
            raise DeadlineExceeded(
                f"StartVM of sandbox {identity} was not answered within {budget + ANSWER_GRACE:.0f} s",
                sandbox=identity,
            )

        waiting = self._runner.ask(
            identity,
            Question.START,
            lambda call: ev.StartRequested(at=self._world.now(), call=call, budget=budget, sandbox=identity),
        ).addTimeout(budget + ANSWER_GRACE, self._reactor, onTimeoutCancel=late)
        await self._or_lost(identity, Question.START, waiting)

    async def stop(self, sandbox: str) -> None:
        """StopVM: returns when the wish is written down. Success for unknown ids; cancelling changes nothing.

        Raises:
            LocalFailure: it could not be written down yet; it is tried again without the caller.
        """
        identity = parse_sandbox_id(sandbox)
        await self._runner.ask(identity, Question.STOP, lambda call: ev.StopRequested(at=self._world.now(), call=call))

    async def _or_lost(self, sandbox: SandboxId, question: Question, waiting: object) -> None:
        try:
            await waiting  # type: ignore[misc]
        except CancelledError:
            # A caller that vanishes has given up; another that waits for the same has not.
            if not self._runner.waiting(sandbox, question):
                detail = question.value
                self._runner.post(sandbox, ev.Ended(at=self._world.now(), cause=Cause.CONNECTION_LOST, detail=detail))
            raise

    def end(self, sandbox: SandboxId, cause: Cause, detail: str = "") -> None:
        """Something outside ended a sandbox."""
        self._runner.post(sandbox, ev.Ended(at=self._world.now(), cause=cause, detail=detail))
