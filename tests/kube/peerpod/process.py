"""The controller as a process of its own, with a cloud that is a folder: what kill -9 leaves, the next one finds.

python -m tests.kube.peerpod.process KUBECONFIG FOLDER NAMESPACE CLUSTER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import asyncioreactor
from twisted.internet.task import deferLater

from peerpods.clouds.interface import TAG_TOKEN
from peerpods.errors import CloudError, CloudFailure
from peerpods.model import Instance

SLOW = 0.15
"""Seconds that one deletion takes."""


@attrs.define
class FolderCloud:
    """A file per instance, holding its tags."""

    folder: Path
    reactor: Any = None
    name: str = "memory"

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to let go of."""

    def add(self, instance_id: str, tags: Mapping[str, str]) -> None:
        """Make an instance."""
        (self.folder / instance_id).write_text(json.dumps(dict(tags)))

    def ids(self) -> list[str]:
        """All instances."""
        return sorted(one.name for one in self.folder.iterdir())

    def _all(self) -> list[Instance]:
        found = []
        for one in self.ids():
            tags = json.loads((self.folder / one).read_text())
            found.append(Instance(id=one, name=one, token=tags[TAG_TOKEN], tags=tuple(tags.items())))
        return found

    async def list(self, tags: Mapping[str, str]) -> list[Instance]:
        return [one for one in self._all() if tags.items() <= dict(one.tags).items()]

    async def find(self, token: str) -> Instance | None:
        return next((one for one in self._all() if one.token == token), None)

    async def describe(self, instance_id: str) -> Instance:
        found = next((one for one in self._all() if one.id == instance_id), None)
        if found is None:
            raise CloudError(f"no {instance_id}", kind=CloudFailure.NOT_FOUND)
        return found

    async def delete(self, instance_id: str) -> None:
        await deferLater(self.reactor, SLOW)
        (self.folder / instance_id).unlink(missing_ok=True)


def main() -> None:
    """Run until killed."""
    asyncioreactor.install()
    from twisted.internet import reactor

    from peerpods.kube.client import KubeSettings
    from peerpods.kube.peerpod.configuration import Configuration
    from peerpods.kube.peerpod.providers import Providers
    from peerpods.kube.peerpod.service import PeerPodCtrl
    from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
    from tests.kube.peerpod.stage import QUICK

    kubeconfig, folder, namespace, cluster = sys.argv[1:]
    chosen: dict[str, Any] = {**QUICK, "namespace": namespace, "cluster": cluster, "leader_elect": False}
    settings = PeerPodCtrlSettings(**chosen, provider="memory")
    providers = Providers(
        reactor,
        Configuration(),
        at_once=2,
        make=lambda _name, _settings, its: FolderCloud(Path(folder), its),  # type: ignore[arg-type,return-value]
    )
    service = PeerPodCtrl(settings, KubeSettings(kubeconfig=kubeconfig), providers, reactor)
    reactor.callWhenRunning(service.startService)  # type: ignore[attr-defined]
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
