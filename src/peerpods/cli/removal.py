"""Taking peer pods out of a cluster, in the order in which nothing is left: what `peerpods uninstall` does.

    PeerPodConfigs (peerpodconfig-ctrl undoes what it made, VMs first) -> PeerPods without one -> what a controller that
    is away could not undo -> controllers -> namespace, rights, CRDs

Each wait ends with the one deadline. Nothing that still has a VM loses its finalizer but by force, and only after the
VM was named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.task import deferLater

from peerpods.errors import ConfigError
from peerpods.kube.client import ApiError, Json, KubeApi, PatchKind
from peerpods.kube.client.rights import copy_of
from peerpods.kube.objects import names
from peerpods.kube.objects import resources as r
from peerpods.kube.objects.peerpod import PeerPodView, parse

LOOK_EVERY = 2.0
"""Seconds between two looks at what is still there."""
SAY_EVERY = 15.0
"""Seconds after which an unchanged state is said again."""
REST = 60.0
"""Seconds of the whole time, at most, that are kept for what comes after the VMs."""
OURS = f"app.kubernetes.io/part-of={names.PART_OF}"
MADE = f"app.kubernetes.io/managed-by={names.PEER_POD_CONFIG_CTRL}"
_CLUSTER_KINDS = (r.CLUSTER_ROLE_BINDINGS, r.CLUSTER_ROLES, r.PRIORITY_CLASSES)
_NAMESPACED_KINDS = (
    r.DEPLOYMENTS, r.DAEMON_SETS, r.SERVICES, r.PDBS, r.NETWORK_POLICIES, r.CONFIG_MAPS, r.SECRETS, r.LEASES,
    r.ROLE_BINDINGS, r.ROLES, r.SERVICE_ACCOUNTS,
)  # fmt: skip
_CRD_NAMES = tuple(f"{kind.plural}.{kind.group}" for kind in (r.PEER_POD_CONFIGS, r.PEER_PODS))


@attrs.frozen(kw_only=True)
class LeftVM:
    """A VM that may be left behind, and how to find it."""

    peer_pod: str
    """NAMESPACE/NAME of the PeerPod."""
    provider: str
    instance: str
    """Empty when the cloud had not answered yet: look for the tags."""
    node: str
    tags: dict[str, str]

    def __str__(self) -> str:
        where = f"instance {self.instance}" if self.instance else "no instance id yet"
        tags = ", ".join(f"{key}={value}" for key, value in self.tags.items()) or "none known"
        return f"PeerPod {self.peer_pod}: provider {self.provider or 'unknown'}, {where}, tags {tags}"


@attrs.define
class Outcome:
    """How it ended."""

    left: list[str] = attrs.Factory(list)
    """Objects that are still there, in words."""
    vms: list[LeftVM] = attrs.Factory(list)
    """VMs whose PeerPod was given up by force."""
    remedy: str = ""

    @property
    def clean(self) -> bool:
        """Nothing is left."""
        return not self.left and not self.vms


def vm_of(view: PeerPodView) -> LeftVM:
    """What a PeerPod says about its VM."""
    tags = {"peerpods-sandbox": view.sandbox, "peerpods-cluster": view.cluster}
    return LeftVM(
        peer_pod=view.key,
        provider=view.provider,
        instance=view.instance_id,
        node=view.node,
        tags={key: value for key, value in tags.items() if value},
    )


@attrs.define
class Removal:
    """One run. Idempotent: a second one goes on where the first stopped."""

    reactor: Any
    kube: KubeApi
    say: Callable[[str], None]
    namespace: str = names.INSTALL_NAMESPACE
    timeout: float = 300.0
    force: bool = False
    configs_only: bool = False
    _began: float = attrs.field(default=0.0, init=False)
    _deadline: float = attrs.field(default=0.0, init=False)
    _outcome: Outcome = attrs.field(factory=Outcome, init=False)

    async def run(self) -> Outcome:
        """Do it all.

        Raises:
            ConfigError: when Helm installed it, so that Helm must remove it.
            ApiError: when the API server refuses what the admin must be able to do.
        """
        self._began = self.reactor.seconds()
        self._deadline = self._began + self.timeout - (0.0 if self.configs_only else min(REST, self.timeout / 4))
        if not self.configs_only and not self.force:
            await self._refuse_helms()
        if not await self._end_peer_pods():
            return self._outcome
        await self._end_made()
        if not self.configs_only:
            await self._end_base()
        return self._outcome

    async def _refuse_helms(self) -> None:
        """Helm would not know that what it installed is gone."""
        found = await self._get(r.DEPLOYMENTS, names.PEER_POD_CONFIG_CTRL, self.namespace)
        metadata = (found or {}).get("metadata") or {}
        if (metadata.get("labels") or {}).get("app.kubernetes.io/managed-by") == "Helm":
            notes = metadata.get("annotations") or {}
            release = notes.get("meta.helm.sh/release-name", "peerpods")
            namespace = notes.get("meta.helm.sh/release-namespace", self.namespace)
            raise ConfigError(
                "this was installed by Helm",
                remedy=f"helm uninstall {release} --namespace {namespace} --timeout 7m does all of this",
            )

    # -- PeerPodConfigs and PeerPods

    async def _end_peer_pods(self) -> bool:
        configs, peer_pods = await self._list(r.PEER_POD_CONFIGS), await self._list(r.PEER_PODS)
        self.say(f"found {_count(configs, 'PeerPodConfig')}, {_count(peer_pods, 'PeerPod')}")
        away = await self._controllers_away() if configs or peer_pods else []
        if away:
            self.say(f"no controller runs to undo them: {', '.join(away)}")
        for config in configs:
            await self._delete(r.PEER_POD_CONFIGS, config)
        if not (self.force and away):
            await self._wait("PeerPodConfigs", self._configs_and_pods_gone)
            for peer_pod in await self._list(r.PEER_PODS):
                await self._delete(r.PEER_PODS, peer_pod)
            await self._wait("PeerPods", self._configs_and_pods_gone, peer_pods=True)
        configs, peer_pods = await self._list(r.PEER_POD_CONFIGS), await self._list(r.PEER_PODS)
        if not configs and not peer_pods:
            return True
        if self.force:
            await self._strip(configs, peer_pods)
            return True
        self._outcome.left += [_named(one) for one in [*configs, *peer_pods]]
        why = f"; no controller runs ({', '.join(away)})" if away else ""
        self._outcome.remedy = (
            f"the controllers stay and go on{why}: look at `kubectl describe peerpods -A`, run this again, or give the "
            "VMs up with --force, which names each first"
        )
        return False

    async def _configs_and_pods_gone(self, peer_pods: bool) -> str:
        configs, pods = await self._list(r.PEER_POD_CONFIGS), await self._list(r.PEER_PODS)
        waiting = [*configs, *pods] if peer_pods else configs
        return f"{_count(configs, 'PeerPodConfig')}, {_count(pods, 'PeerPod')} left" if waiting else ""

    async def _controllers_away(self) -> list[str]:
        away = []
        for name in (names.PEER_POD_CONFIG_CTRL, names.PEER_POD_CTRL):
            found = await self._get(r.DEPLOYMENTS, name, self.namespace)
            if found is None or not (found.get("status") or {}).get("availableReplicas"):
                away.append(name)
        return away

    async def _strip(self, configs: list[Json], peer_pods: list[Json]) -> None:
        for one in peer_pods:
            vm = vm_of(parse(one))
            self._outcome.vms.append(vm)
            self.say(f"a VM may be left: {vm}")
        for resource, found in ((r.PEER_PODS, peer_pods), (r.PEER_POD_CONFIGS, configs)):
            for one in found:
                await self._delete(resource, one)
                await self._release(resource, one)
        self.say(f"took the finalizers off {_count(configs, 'PeerPodConfig')}, {_count(peer_pods, 'PeerPod')}")
        if self._outcome.vms:
            self._outcome.remedy = "look for the VMs named above in the cloud, by instance id or tag, and delete them"

    # -- what peerpodconfig-ctrl made

    async def _end_made(self) -> None:
        if await self._delete_named(r.MUTATING_WEBHOOKS, names.WEBHOOK):
            self.say(f"deleted the webhook's registration {names.WEBHOOK}")
        for one in await self._list(r.RUNTIME_CLASSES, labels=MADE):
            await self._delete(r.RUNTIME_CLASSES, one)
            self.say(f"deleted RuntimeClass {one['metadata']['name']}")
        for resource in (r.ROLE_BINDINGS, r.ROLES):
            for one in await self._list(resource, labels=MADE):
                if one["metadata"]["name"] == names.PULL_SECRETS_ROLE:
                    await self._delete(resource, one)
        for resource in (r.CLUSTER_ROLE_BINDINGS, r.CLUSTER_ROLES):
            for account in (names.PEER_POD_CTRL, names.PEER_POD_CONFIG_CTRL):
                await self._delete_named(resource, copy_of(account))
        for node in await self._list(r.NODES):
            await self._end_capacity(node)

    async def _end_capacity(self, node: Json) -> None:
        status = node.get("status") or {}
        escaped = names.EXTENDED_RESOURCE.replace("/", "~1")
        patch = [
            {"op": "remove", "path": f"/status/{part}/{escaped}"}
            for part in ("capacity", "allocatable")
            if names.EXTENDED_RESOURCE in (status.get(part) or {})
        ]
        if patch:
            name = node["metadata"]["name"]
            if await self._quietly(self.kube.patch(r.NODES, name, patch, kind=PatchKind.JSON, subresource="status")):
                self.say(f"took {names.EXTENDED_RESOURCE} off node {name}")

    # -- what kustomize or Helm installed

    async def _end_base(self) -> None:
        self._deadline = self._began + self.timeout
        namespace = await self._get(r.NAMESPACES, self.namespace)
        ours = namespace is not None and (namespace["metadata"].get("labels") or {}).get(
            "app.kubernetes.io/part-of"
        ) == (names.PART_OF)
        if namespace is not None:
            await self._end_namespaced(whole=ours)
        for resource in _CLUSTER_KINDS:
            for one in await self._list(resource, labels=OURS):
                await self._delete(resource, one)
                await self._release(resource, one)
        for name in _CRD_NAMES:
            await self._delete_named(r.CRDS, name)
        if ours:
            await self._delete_named(r.NAMESPACES, self.namespace)
        await self._wait("CRDs and namespace" if ours else "CRDs", self._base_gone, whole=ours)
        self._outcome.left += await self._base_left(ours)
        if self._outcome.left and not self._outcome.remedy:
            self._outcome.remedy = (
                f"run this again; `kubectl get namespace {self.namespace} -o yaml` says what a Terminating namespace "
                "waits for"
            )

    async def _end_namespaced(self, whole: bool) -> None:
        for name in (names.PEER_POD_CONFIG_CTRL, names.PEER_POD_CTRL):
            if await self._delete_named(r.DEPLOYMENTS, name, self.namespace):
                self.say(f"deleted Deployment {name}")
        for resource in (r.ROLE_BINDINGS, r.ROLES, r.SERVICE_ACCOUNTS):
            for one in await self._list(resource, self.namespace, labels=OURS):
                await self._delete(resource, one)
                await self._release(resource, one)
        if whole:
            return
        for resource in _NAMESPACED_KINDS:
            for one in await self._list(resource, self.namespace, labels=OURS):
                await self._delete(resource, one)
        for name in (names.PEER_POD_CONFIG_CTRL, names.PEER_POD_CTRL, names.WEBHOOK_CERT_LEASE):
            await self._delete_named(r.LEASES, name, self.namespace)

    async def _base_gone(self, whole: bool) -> str:
        left = await self._base_left(whole)
        return f"{', '.join(left)} left" if left else ""

    async def _base_left(self, whole: bool) -> list[str]:
        wanted = [(r.CRDS, name) for name in _CRD_NAMES] + ([(r.NAMESPACES, self.namespace)] if whole else [])
        left = [f"{resource.kind} {name}" for resource, name in wanted if await self._get(resource, name) is not None]
        for resource in _CLUSTER_KINDS:
            left += [_named(one) for one in await self._list(resource, labels=OURS)]
        return left

    # -- single steps

    async def _wait(self, what: str, look: Callable[..., Any], **arguments: bool) -> bool:
        """Until `look` says nothing or the deadline has come; what it says is said when it changes."""
        said, at = "", 0.0
        while True:
            now = self.reactor.seconds()
            try:
                state = await look(**(arguments or {"peer_pods": False}))
            except ApiError as error:
                if not error.passing:
                    raise
                state = f"the API server does not answer: {error.message}"
            if not state:
                if said:
                    self.say(f"{what}: gone")
                return True
            if state != said or now - at >= SAY_EVERY:
                self.say(f"waiting for {what}: {state}")
                said, at = state, now
            if now >= self._deadline:
                self.say(f"{what}: not gone after {now - self._began:.0f} s")
                return False
            await deferLater(self.reactor, min(LOOK_EVERY, max(0.0, self._deadline - now)), lambda: None)

    async def _list(self, resource: r.Resource, namespace: str | None = None, labels: str = "") -> list[Json]:
        try:
            return (await self.kube.list(resource, namespace, labels=labels))[0]
        except ApiError as error:
            if error.not_found or error.status == 405:
                return []
            raise

    async def _get(self, resource: r.Resource, name: str, namespace: str | None = None) -> Json | None:
        try:
            return await self.kube.get(resource, name, namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _quietly(self, call: Any) -> bool:
        """Whether a call did something; that there is nothing to do, or that somebody was faster, is no error."""
        try:
            await call
        except ApiError as error:
            if error.not_found or error.conflict or error.invalid:
                return False
            raise
        return True

    async def _delete(self, resource: r.Resource, one: Json) -> bool:
        metadata = one["metadata"]
        if metadata.get("deletionTimestamp"):
            return False
        return await self._quietly(
            self.kube.delete(resource, metadata["name"], metadata.get("namespace"), uid=metadata["uid"])
        )

    async def _delete_named(self, resource: r.Resource, name: str, namespace: str | None = None) -> bool:
        return await self._quietly(self.kube.delete(resource, name, namespace))

    async def _release(self, resource: r.Resource, one: Json) -> None:
        """Take our finalizers off an object, and no other's."""
        metadata = one["metadata"]
        kept = [f for f in metadata.get("finalizers") or () if f not in (names.FINALIZER, names.CONFIG_FINALIZER)]
        if len(kept) == len(metadata.get("finalizers") or ()):
            return
        body = {"metadata": {"uid": metadata["uid"], "finalizers": kept}}
        await self._quietly(
            self.kube.patch(resource, metadata["name"], body, metadata.get("namespace"), kind=PatchKind.MERGE)
        )


def _count(found: Iterable[Any], kind: str) -> str:
    number = sum(1 for _ in found)
    return f"{number} {kind}" + ("" if number == 1 else "s")


def _named(one: Json) -> str:
    metadata = one["metadata"]
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{one['kind']} {place}{metadata['name']}"
