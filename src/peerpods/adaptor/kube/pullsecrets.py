"""Reads a pod's pull secrets: those that the pod names, one by one, and nothing else.

The API server has copied the service account's pull secrets into the pod. The right to read them is a Role in the pod's
namespace that names them; it may come a moment after the pod. A secret that cannot be used is told of and left out, as
kubelet does: an image may not need it.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from peerpods.adaptor.kube.bounded import bounded
from peerpods.adaptor.kube.meters import PULL_SECRETS
from peerpods.adaptor.kube.podview import PodView
from peerpods.kube.client.api import KubeApi
from peerpods.kube.client.errors import ApiError
from peerpods.kube.objects import pullsecret
from peerpods.kube.objects.names import PULL_SECRETS_ROLE
from peerpods.kube.objects.pullsecret import Auths, BadSecret
from peerpods.kube.objects.resources import SECRETS

PATIENCE = 5.0
"""Seconds within which the right to read a secret must come."""
PAUSE = 0.5
"""Seconds between two tries without the right."""
ANSWER = 2.0
"""Seconds within which the API server must answer one read."""
SECRETS_MAX = 32
"""Pull secrets of one pod that are read."""


class PullSecrets:
    """Gathers credentials.

    Args:
        max_bytes: largest user data of the provider; credentials above that can never travel.
    """

    def __init__(self, reactor: IReactorTime, kube: KubeApi, max_bytes: int) -> None:
        self._reactor = reactor
        self._kube = kube
        self._max_bytes = max_bytes

    async def gather(self, pod: PodView, complain: Callable[[str], None]) -> tuple[str, tuple[str, ...]]:
        """The credentials of the pod's secrets, merged in order, and the names of those they are from.

        Args:
            complain: told of each secret that cannot be used, and why.
        """
        if len(pod.pull_secrets) > SECRETS_MAX:
            complain(f"the pod names {len(pod.pull_secrets)} pull secrets; only the first {SECRETS_MAX} are used")
        deadline = self._reactor.seconds() + PATIENCE
        found: dict[str, Auths] = {}
        for name in pod.pull_secrets[:SECRETS_MAX]:
            try:
                found[name] = await self._read(name, pod.namespace, deadline)
            except BadSecret as error:
                PULL_SECRETS.labels("unusable").inc()
                complain(f"pull secret {name} cannot be used: {error} (the VM pulls without it)")
            except ApiError as error:
                PULL_SECRETS.labels(error.reason or "failed").inc()
                complain(f"{_words(name, pod.namespace, error)} (the VM pulls without it)")
            else:
                PULL_SECRETS.labels("used").inc()
        return pullsecret.to_json(pullsecret.merge(found.values())), tuple(found)

    async def _read(self, name: str, namespace: str, deadline: float) -> Auths:
        while True:
            try:
                reading = self._kube.get(SECRETS, name, namespace)
                secret = await bounded(self._reactor, reading, ANSWER, f"read secret {name}")
                break
            except ApiError as error:
                if not error.forbidden or self._reactor.seconds() + PAUSE > deadline:
                    raise
            await deferLater(self._reactor, PAUSE)
        auths = pullsecret.credentials(secret)
        size = len(pullsecret.to_json(auths).encode())
        if size > self._max_bytes:
            raise BadSecret(f"its credentials have {size} bytes, more than the {self._max_bytes} that a VM can be told")
        return auths


def _words(name: str, namespace: str, error: ApiError) -> str:
    if error.not_found:
        return f"pull secret {name} does not exist in namespace {namespace}: create it, or name another"
    if error.forbidden:
        return (
            f"the adaptor may not read pull secret {name}: Role {PULL_SECRETS_ROLE} in namespace {namespace} does not"
            f" allow it; peerpodconfig-ctrl makes that Role, see whether it runs"
        )
    return f"pull secret {name} could not be read: {error}"
