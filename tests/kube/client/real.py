"""What the tests against the real API server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from peerpods.kube.client import Kube, KubeSettings, connect


def wait(seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> float:
    """Wait for it; how long it took."""
    began = reactor.seconds()
    while not condition():
        assert reactor.seconds() - began < seconds, "it did not come to that"
        await wait(0.02)
    return reactor.seconds() - began


async def client(cluster: Any, user: str = "admin", component: str = "test") -> Kube:
    """Our client as this user of the test cluster."""
    return await connect(reactor, KubeSettings(kubeconfig=str(cluster.kubeconfig(user))), component=component)


def changed_kubeconfig(cluster: Any, folder: Path, **fields: Any) -> KubeSettings:
    """The admin's kubeconfig with other fields of its cluster."""
    config = yaml.safe_load(Path(cluster.kubeconfig()).read_text())
    config["clusters"][0]["cluster"].update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del config["clusters"][0]["cluster"][name]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return KubeSettings(kubeconfig=str(path))
