"""Keeps the pull-secret Roles, one namespace at a time: a new need at once, one that has gone a little later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peerpods.kube.client import ApiError, KubeApi
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import ROLE_BINDINGS, ROLES
from peerpods.kube.peerpodconfig import grants
from peerpods.kube.peerpodconfig.applier import Applier
from peerpods.kube.peerpodconfig.facts import PodFacts
from peerpods.kube.peerpodconfig.metrics import GRANTED_NAMESPACES
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
LINGER = 5.0  # seconds a right outlives its last pod, so that pods that follow one another share it
Store = Mapping[str, Any]


class Granting:
    """The work of one namespace is `work(namespace)`; it is idempotent and decides from what is there now.

    Args:
        classes: names of the runtime classes in force; empty when nothing shall be granted.
        adaptors: namespace of the adaptors.
    """

    def __init__(
        self,
        reactor: Any,
        kube: KubeApi,
        roles: Callable[[], Store],
        bindings: Callable[[], Store],
        classes: Callable[[], frozenset[str]],
        adaptors: str,
    ) -> None:
        self._reactor = reactor
        self._applier = Applier(kube)
        self._roles = roles
        self._bindings = bindings
        self._classes = classes
        self._adaptors = adaptors
        self._pods: dict[str, dict[str, PodFacts]] = {}
        self._unused: dict[str, float] = {}

    def pod_changed(self, key: str, new: PodFacts | None) -> str | None:
        """Note a pod; the namespace whose rights may have to change, or None."""
        namespace, _, _ = key.partition("/")
        pods = self._pods.get(namespace)
        if new is None or not new.secrets:
            if pods is None or pods.pop(key, None) is None:
                return None
            if not pods:
                del self._pods[namespace]
            return namespace
        if pods is not None and pods.get(key) == new:
            return None
        self._pods.setdefault(namespace, {})[key] = new
        return namespace

    def namespaces(self) -> list[str]:
        """All that have or need a Role."""
        keys = [*self._roles(), *self._bindings()]
        return sorted({*self._pods, *(key.partition("/")[0] for key in keys)})

    def left(self) -> list[str]:
        """Namespaces that still have a Role or RoleBinding."""
        return sorted({key.partition("/")[0] for key in [*self._roles(), *self._bindings()]})

    async def work(self, namespace: str) -> float | None:
        """Bring one namespace's Role and RoleBinding to what its pods need.

        Returns:
            seconds until another look is needed, or None.

        Raises:
            ApiError: worth another try.
        """
        key = f"{namespace}/{names.PULL_SECRETS_ROLE}"
        seen_role, seen_binding = self._roles().get(key), self._bindings().get(key)
        role = self._applier.current(("Role", namespace, names.PULL_SECRETS_ROLE), seen_role)
        wanted = grants.secret_names(self._pods.get(namespace, {}).values(), self._classes())
        GRANTED_NAMESPACES.set(len(self._roles()))
        try:
            if wanted:
                shrinks = set(wanted) < grants.granted(role if role is None else dict(role))
                wait = self._linger(namespace) if shrinks else None
                if wait:
                    return wait
                self._unused.pop(namespace, None)
                await self._grant(namespace, wanted, seen_role, seen_binding)
            elif seen_role is not None or seen_binding is not None:
                wait = self._linger(namespace) if self._classes() else None
                if wait:
                    return wait
                await self.revoke(namespace)
        except ApiError as error:
            if error.not_found or error.namespace_terminating:
                return None  # the namespace goes, and takes with it what is in it
            raise
        return None

    async def _grant(self, namespace: str, wanted: tuple[str, ...], seen_role: Any, seen_binding: Any) -> None:
        # The Role first: the server lets nobody bind a Role that it does not find.
        if await self._applier.ensure(ROLES, grants.role(namespace, wanted), seen_role):
            log.info("pull_secrets_granted", namespace=namespace, secrets=len(wanted))
        body = grants.binding(namespace, self._adaptors)
        if seen_binding is not None and seen_binding.get("roleRef") != body["roleRef"]:
            await self._applier.remove(ROLE_BINDINGS, seen_binding)  # a roleRef can never be changed
            seen_binding = None
        await self._applier.ensure(ROLE_BINDINGS, body, seen_binding)

    async def revoke(self, namespace: str) -> None:
        """Take the rights away now. Idempotent.

        Raises:
            ApiError: the server refused.
        """
        key = f"{namespace}/{names.PULL_SECRETS_ROLE}"
        self._unused.pop(namespace, None)
        for resource, store in ((ROLE_BINDINGS, self._bindings()), (ROLES, self._roles())):
            if key in store:
                await self._applier.remove(resource, store[key])

    def _linger(self, namespace: str) -> float:
        """Seconds that a right which has become too wide may still stay."""
        now: float = self._reactor.seconds()
        since = self._unused.setdefault(namespace, now)
        return max(0.0, since + LINGER - now)
