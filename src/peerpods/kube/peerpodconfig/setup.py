"""Sets the cluster up as the PeerPodConfig in force says, and reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from peerpods.kube.client import ApiError, KubeApi
from peerpods.kube.objects import names
from peerpods.kube.objects.resources import MUTATING_WEBHOOKS, RUNTIME_CLASSES, SECRETS, Resource
from peerpods.kube.peerpodconfig import advertising
from peerpods.kube.peerpodconfig.applier import Applier, ident_of
from peerpods.kube.peerpodconfig.credentials import Credentials, Environment, Verdict, environment
from peerpods.kube.peerpodconfig.facts import NodeFacts, set_facts, webhook_facts
from peerpods.kube.peerpodconfig.metrics import NODES
from peerpods.kube.peerpodconfig.render import Facts, render, resource_of
from peerpods.kube.peerpodconfig.render.certificates import CERT_MANAGER, CERTIFICATES, ISSUERS
from peerpods.kube.peerpodconfig.spec import Config
from peerpods.kube.peerpodconfig.verdicts import Seen, status_of
from peerpods.kube.peerpodconfig.verify import Verifier
from peerpods.kube.peerpodconfig.world import World
from peerpods.kube.peerpodconfig.writing import Writing
from peerpods.obs.log import get_logger

log = get_logger("peerpodconfig")
AGAIN = 5.0  # seconds until another try when the server refused something
INJECT = f"{CERT_MANAGER}/inject-ca-from"


class SetUp:
    """One reconcile is `work(obj, config)`; it writes only what differs.

    Args:
        facts: what is known of the server; the checksum is filled in here.
        clock: seconds since the epoch, for conditions.
    """

    def __init__(
        self,
        kube: KubeApi,
        world: World,
        facts: Facts,
        verifier: Verifier,
        writing: Writing,
        wrong_nodes: Callable[[], list[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._world = world
        self._facts = facts
        self._verifier = verifier
        self._writing = writing
        self._wrong_nodes = wrong_nodes
        self._clock = clock
        self._applier = Applier(kube)

    async def work(self, obj: Mapping[str, Any], config: Config, resync: float) -> float:
        """Apply, prune, report.

        Returns:
            seconds until the next look.

        Raises:
            ApiError: the status could not be written, or the Secret not be read.
        """
        try:
            env = await self._environment(config)
        except ApiError as error:
            if not error.forbidden:
                raise
            # Without the Secret's values nothing may be applied: another checksum would roll the adaptors.
            await self._report(obj, config, Credentials(Verdict.MISSING, str(error)), {})
            return AGAIN
        credentials = self._verifier.look(config, env)
        facts = self._with_settings(env, self._verifier.max_user_data)
        desired = render(config, facts)
        failures = await self._apply(desired, facts)
        failures |= await self._prune(config, desired)
        await self._report(obj, config, credentials, failures)
        return AGAIN if failures else resync

    async def _report(
        self, obj: Mapping[str, Any], config: Config, credentials: Credentials, failures: Mapping[str, str]
    ) -> None:
        seen = self._look(config, credentials, failures)
        await self._writing.status(obj, status_of(config, seen, self._writing.status_before(obj), self._clock()))

    def _with_settings(self, env: Environment, max_user_data: int) -> Facts:
        return attrs.evolve(self._facts, checksum=env.checksum, max_user_data=max_user_data)

    async def _environment(self, config: Config) -> Environment:
        secret = None
        if config.secret:
            try:
                secret = await self._kube.get(SECRETS, config.secret, config.namespace)
            except ApiError as error:
                if not error.not_found:
                    raise
        config_map = self._world.one("ConfigMap", config.namespace, config.config_map) if config.config_map else None
        return environment(config, secret, config_map)

    # -- writing

    async def _apply(self, desired: list[dict[str, Any]], facts: Facts) -> dict[str, str]:
        failures: dict[str, str] = {}
        for body in desired:
            if self._held_back(body, facts):
                continue
            resource = resource_of(body, facts)
            try:
                await self._ensure(resource, body)
            except ApiError as error:
                failures[f"{body['kind']} {body['metadata']['name']}"] = str(error)
                log.warning("apply_failed", kind=body["kind"], name=body["metadata"]["name"], reason=str(error))
        return failures

    def _held_back(self, body: Mapping[str, Any], facts: Facts) -> bool:
        """Whether an object waits for another.

        Without matchConditions a registration whose webhook does not serve yet would stop all pods of the cluster;
        without a registration a pod of ours would be let in as it is.
        """
        registration = self._world.of(MUTATING_WEBHOOKS.kind).get(names.WEBHOOK)
        if body["kind"] == MUTATING_WEBHOOKS.kind:
            return registration is None and not facts.has_match_conditions and not self._webhook().available
        if body["kind"] == RUNTIME_CLASSES.kind:
            known = self._applier.current((MUTATING_WEBHOOKS.kind, "", names.WEBHOOK), registration)
            return known is None or self._foreign(body["metadata"]["name"])
        return False

    def _foreign(self, name: str) -> bool:
        """Whether a RuntimeClass was made by somebody else (kata-deploy may make one of our name)."""
        live = self._world.of(RUNTIME_CLASSES.kind).get(name)
        return live is not None and names.CONFIG_ANNOTATION not in (live["metadata"].get("annotations") or {})

    async def _ensure(self, resource: Resource, body: dict[str, Any]) -> None:
        seen = await self._seen(resource, body)
        if resource == RUNTIME_CLASSES and seen is not None and seen.get("handler") != body["handler"]:
            await self._applier.remove(resource, seen)  # a handler can never be changed
            seen = None
        await self._applier.ensure(resource, body, seen)

    async def _seen(self, resource: Resource, body: Mapping[str, Any]) -> Any:
        meta = body["metadata"]
        if resource.group != CERT_MANAGER:
            return self._world.one(resource.kind, meta.get("namespace", ""), meta["name"])
        try:  # optional kinds have no informer, which would complain of their absence
            return await self._kube.get(resource, meta["name"], meta["namespace"])
        except ApiError as error:
            if not error.not_found:
                raise
            return None

    async def _prune(self, config: Config, desired: list[dict[str, Any]]) -> dict[str, str]:
        """Delete what this configuration once asked for and does no more."""
        wanted = {ident_of(body) for body in desired}
        owned = self._world.owned(config.uid)
        for resource in (MUTATING_WEBHOOKS, RUNTIME_CLASSES):
            owned += [(resource, obj) for obj in self._world.cluster_owned(resource, config.key)]
        stale = [
            (resource, obj)
            for resource, obj in owned
            if (resource.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) not in wanted
        ]
        registration = self._world.of(MUTATING_WEBHOOKS.kind).get(names.WEBHOOK)
        annotations = (registration or {}).get("metadata", {}).get("annotations") or {}
        if config.webhook.cert_manager is None and INJECT in annotations:
            meta = {"name": names.WEBHOOK, "namespace": config.namespace}
            stale += [(resource, {"metadata": meta}) for resource in (CERTIFICATES, ISSUERS)]
        failures: dict[str, str] = {}
        for resource, obj in stale:
            try:
                await self._applier.remove(resource, obj)
            except ApiError as error:
                failures[f"{resource.kind} {obj['metadata']['name']}"] = str(error)
        return failures

    # -- looking

    def _webhook(self) -> Any:
        deployments = self._world.of("Deployment")
        live = next((obj for key, obj in deployments.items() if key.endswith(f"/{names.WEBHOOK}")), None)
        return webhook_facts(live, self._world.of(MUTATING_WEBHOOKS.kind).get(names.WEBHOOK))

    def _look(self, config: Config, credentials: Credentials, failures: Mapping[str, str]) -> Seen:
        nodes: list[NodeFacts] = list(self._world.of("Node").values())
        matching = [node for node in nodes if config.selects(node.labels)]
        wrong = set(self._wrong_nodes())
        sets = {name: self._world.one("DaemonSet", config.namespace, name) for name in (names.RELAY, names.ADAPTOR)}
        classes = self._world.of(RUNTIME_CLASSES.kind)
        wanted = sorted(config.class_names)
        seen = Seen(
            nodes=tuple(matching),
            all_nodes=len(nodes),
            limits=tuple(advertising.mistakes(matching, config)),
            unadvertised=tuple(sorted(node.name for node in matching if node.name in wrong)),
            credentials=credentials,
            failures=failures,
            relay=set_facts(sets[names.RELAY]) if sets[names.RELAY] else None,
            adaptor=set_facts(sets[names.ADAPTOR]) if sets[names.ADAPTOR] else None,
            webhook=self._webhook(),
            troubles=self._troubles(),
            foreign=tuple(name for name in wanted if self._foreign(name)),
            classes=sum(name in classes for name in wanted),
        )
        NODES.labels("matching").set(len(matching))
        NODES.labels("unadvertised").set(len(seen.unadvertised))
        return seen

    def _troubles(self) -> dict[str, str]:
        found: dict[str, str] = {}
        pods = self._world.of("Pod")
        for key in sorted(pods):
            pod = pods[key]
            if pod is not None and pod.component and pod.trouble and pod.component not in found:
                where = f" (node {pod.node})" if pod.node else ""
                found[pod.component] = f"{pod.trouble}{where}"
        return found
