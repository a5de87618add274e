"""The controller while it leads: informers feed queues, queues call the work of a config, a node, a namespace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import gatherResults

from peerpods.aio import spawn
from peerpods.clouds import registry
from peerpods.errors import PeerPodError
from peerpods.kube.client import ApiError, Change, KubeApi, WorkQueue, hold, keep, release
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import PEER_PODS
from peerpods.kube.peerpodconfig.advertising import Advertising, Wish
from peerpods.kube.peerpodconfig.choice import choose, conflict_words
from peerpods.kube.peerpodconfig.finalizer import has_finalizer
from peerpods.kube.peerpodconfig.granting import Granting
from peerpods.kube.peerpodconfig.removing import Removing
from peerpods.kube.peerpodconfig.render import Facts
from peerpods.kube.peerpodconfig.setup import SetUp
from peerpods.kube.peerpodconfig.spec import Config, parse_config
from peerpods.kube.peerpodconfig.verdicts import conflict_status
from peerpods.kube.peerpodconfig.verify import Make, Verifier
from peerpods.kube.peerpodconfig.world import CONFIGS, World, discover
from peerpods.kube.peerpodconfig.writing import Recorder, Writing
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
NO_CONFIG = ""  # key of the work when no PeerPodConfig is held
STOP_GRACE = 3.0  # seconds that work under way has at the end; less than the lease holds after it was renewed no more
GATHER = 0.2  # seconds in which changes that concern the status are gathered into one look


class Controller:
    """Everything a leader does, from `start` to `stop`.

    Args:
        namespace: ours.
        image: of the components, where a PeerPodConfig names none.
        resync: seconds between looks at what nobody reports.
        make_provider: how a provider is made for the check of the cloud's settings.
        clock: seconds since the epoch, for conditions and deletion times.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        recorder: Recorder,
        *,
        namespace: str,
        image: str,
        resync: float = 30.0,
        make_provider: Make | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._kube = kube
        self._namespace = namespace
        self._image = image
        self._resync = resync
        self._clock = clock
        self._current: Config | None = None
        self._wish: Wish | None = None
        self._used: frozenset[str] = frozenset()
        self._granting_on = False
        self._only_undo = False
        self._rights_held: bool | None = None
        """None while not known."""
        self._verifier = Verifier(reactor, self._look_again, make_provider or registry.make_provider)
        self._writing = Writing(kube, recorder)
        self._configs = WorkQueue(reactor, self._config, workers=1, cap=60.0, name="peerpodconfigs")
        self._nodes = WorkQueue(reactor, self._node, cap=60.0, name="nodes")
        self._namespaces = WorkQueue(reactor, self._pull_secrets, cap=60.0, name="pull-secrets")
        self.world: World | None = None
        """The informers; None before `start`."""

    async def start(self) -> None:
        """Look at everything once, then begin to work.

        Raises:
            ApiError: the server did not say what it can.
        """
        version, pdbs = await discover(self._kube)
        log.info("server", version=f"{version[0]}.{version[1]}", budgets=pdbs.api_version if pdbs else "none")
        self.world = world = World(self._reactor, self._kube, self._namespace, pdbs, self._changed)
        self._advertising = Advertising(self._kube, lambda: world.of("Node"), lambda: self._wish)
        self._granting = Granting(
            self._reactor,
            self._kube,
            lambda: world.of("Role"),
            lambda: world.of("RoleBinding"),
            self._classes,
            self._namespace,
        )
        facts = Facts(version=version, pdbs=pdbs, image=self._image)
        self._set_up = SetUp(
            self._kube, world, facts, self._verifier, self._writing, self._advertising.wrong, self._clock
        )
        self._removing = Removing(
            self._kube,
            world,
            self._writing,
            self._advertising,
            self._granting,
            self._withdraw,
            self._revoke,
            self._clock,
        )
        await world.start()
        for queue in (self._configs, self._nodes, self._namespaces):
            queue.start()
        self._all_configs()
        for namespace in self._granting.namespaces():
            self._namespaces.add(namespace)

    async def stop(self) -> None:
        """Begin nothing more, at once; what is under way ends within seconds. Idempotent."""
        if self.world is not None:
            self.world.stop()
        # All together: while one of them takes its time, the others must not go on, for another may lead by then.
        queues = [queue.stop(grace=STOP_GRACE) for queue in (self._configs, self._nodes, self._namespaces)]
        await gatherResults([spawn(ended) for ended in (*queues, self._verifier.stop())], consumeErrors=True)

    @property
    def idle(self) -> bool:
        """Nothing is in work or waits to be, but for looks at their time."""
        return self._configs.idle and self._nodes.idle and self._namespaces.idle

    @property
    def synced(self) -> bool:
        """Everything has been looked at once: what `held` says is true."""
        return self.world is not None and not self.world.unsynced()

    def held(self) -> list[dict[str, Any]]:
        """PeerPodConfigs of our namespace that carry our finalizer."""
        if self.world is None:
            return []
        return [obj for obj in self.world.of(CONFIGS).values() if has_finalizer(obj)]

    async def release(self, obj: dict[str, Any]) -> None:
        """Take our finalizer off, whatever is left.

        Raises:
            ApiError: the server refused.
        """
        await self._writing.remove_finalizer(obj)

    def only_undo(self) -> None:
        """From now on nothing is set up any more; deletions go on."""
        self._only_undo = True

    async def let_go(self) -> None:
        """Rights are held no longer, for there is nothing to undo; peerpod-ctrl's while it has VMs it sees to itself.

        Raises:
            ApiError: worth another try.
        """
        self._rights_held = False
        try:
            left = bool((await self._kube.list(PEER_PODS))[0])
        except ApiError as error:
            if error.passing:
                raise
            left = not error.not_found
        if not left:
            await release(self._kube, names.PEER_POD_CTRL, self._namespace)
        await release(self._kube, names.PEER_POD_CONFIG_CTRL, self._namespace)

    async def _hold_rights(self) -> None:
        if not self._rights_held:
            await keep(self._kube, names.PEER_POD_CONFIG_CTRL, self._namespace)
            for account in (names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL):
                await hold(self._kube, account, self._namespace)
            self._rights_held = True

    # -- what is in force

    def _winner(self) -> str:
        assert self.world is not None
        return choose(self.world.of(CONFIGS).values(), self._namespace)

    def _classes(self) -> frozenset[str]:
        return self._current.class_names if self._current is not None and self._granting_on else frozenset()

    def _in_force(self, config: Config) -> None:
        if config == self._current and self._granting_on and self._wish is not None and self._wish.config is not None:
            return
        classes = self._classes()
        self._used |= frozenset(config.resource_names)
        self._current, self._granting_on, self._wish = config, True, Wish(config, self._used)
        self._every_node()
        if classes != self._classes():
            self._every_namespace()

    def _withdraw(self) -> None:
        if self._wish is None or self._wish.config is not None:
            self._wish = Wish(None, self._used)
            self._every_node()

    def _revoke(self) -> None:
        if self._granting_on:
            self._granting_on = False
            self._every_namespace()

    def _gone(self) -> None:
        """Nothing is in force: rights go, and nodes are left as they are."""
        if self._current is not None:
            self._current = None
            self._wish = None
        self._revoke()

    # -- what has changed

    def _changed(self, kind: str, change: Change) -> None:
        if kind == CONFIGS:
            self._all_configs()
            return
        if kind == "Pod":
            self._pod_changed(change)
            return
        if kind == "Node":
            if change.old == change.new:
                return
            self._nodes.add(change.key)
        elif kind in ("Role", "RoleBinding"):
            self._namespaces.add(change.key.partition("/")[0])
            return
        self._look_again()

    def _pod_changed(self, change: Change) -> None:
        namespace = self._granting.pod_changed(change.key, change.new)
        if namespace is not None:
            self._namespaces.add(namespace)
        for pod in (change.old, change.new):
            if pod is not None and pod.component and change.old != change.new:
                self._look_again()

    def _look_again(self) -> None:
        if self._current is not None:
            self._configs.add(self._current.key, GATHER)

    def _all_configs(self) -> None:
        if self.world is not None:
            for key in self.world.of(CONFIGS):
                self._configs.add(key)
            if not self.world.of(CONFIGS):
                self._gone()
            if not self._winner() and self._rights_held is not False:
                self._configs.add(NO_CONFIG)

    def _every_node(self) -> None:
        assert self.world is not None
        for name in self.world.of("Node"):
            self._nodes.add(name)

    def _every_namespace(self) -> None:
        for namespace in self._granting.namespaces():
            self._namespaces.add(namespace)

    # -- the work

    async def _config(self, key: str) -> float | None:
        assert self.world is not None
        if key == NO_CONFIG:
            if not self._winner():
                await self.let_go()
            return None
        obj = self.world.of(CONFIGS).get(key)
        if obj is None:
            return None
        winner = self._winner()
        config = parse_config(obj)
        if key != winner:
            return await self._other(key, winner, obj, config)
        if obj["metadata"].get("deletionTimestamp"):
            if self._current is None or self._current.uid != config.uid:
                self._in_force(config)  # a process that starts in mid deletion must know what there is to undo
            return await self._removing.work(obj, config)
        if self._only_undo:
            return None
        await self._hold_rights()
        if not has_finalizer(obj):
            await self._writing.add_finalizer(obj)
            return self._resync  # the change brings us back at once
        self._in_force(config)
        for node in self._advertising.wrong():
            self._nodes.add(node)
        return await self._set_up.work(obj, config, self._resync)

    async def _other(self, key: str, winner: str, obj: dict[str, Any], config: Config) -> float | None:
        """One that is not in force: it is told so, and held by nothing."""
        if not winner:
            self._gone()
        if obj["metadata"].get("deletionTimestamp"):
            if has_finalizer(obj):
                await self._writing.remove_finalizer(obj)
            return None
        words = conflict_words(key, winner, self._namespace)
        status = conflict_status(config, words, self._writing.status_before(obj), self._clock())
        await self._writing.status(obj, status)
        return None

    async def _node(self, name: str) -> None:
        await self._advertising.work(name)

    async def _pull_secrets(self, namespace: str) -> float | None:
        return await self._granting.work(namespace)


async def started(reactor: Any, controller: Controller, sleep: Callable[[float], Any]) -> None:
    """Start a controller, trying again while the server is away. Cancel to give up."""
    wait = 0.5
    while True:
        try:
            await controller.start()
        except PeerPodError as error:
            log.warning("start_failed", reason=str(error), again_in=wait)
            await sleep(wait)
            wait = min(wait * 2, 30.0)
        else:
            return
