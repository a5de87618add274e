"""An adaptor without Kubernetes: nothing of it is loaded, and the limit of its own setting holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import pytest_twisted
from twisted.internet import reactor

from peerpods.adaptor.executor import Place
from peerpods.adaptor.ports import Alone
from peerpods.adaptor.service import make_service
from peerpods.cli.services.adaptor import uses_kubernetes
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.config.settings import AdaptorSettings, GuestSettings
from peerpods.errors import ConfigError, Refused
from peerpods.kube.client.settings import KubeSettings
from tests.adaptor.world import Scene


def test_nothing_of_the_client_is_loaded():
    code = (
        "import sys, peerpods.cli.services.adaptor, peerpods.adaptor.service\n"
        "print([m for m in sys.modules if m.startswith(('peerpods.kube', 'peerpods.adaptor.kube', 'kubernetes'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = {"peerpods.kube", "peerpods.kube.client", "peerpods.kube.client.settings"}
    allowed |= {"peerpods.kube.client.reference"}  # pure, and small
    assert set(eval(done.stdout)) <= allowed


IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


@pytest.mark.parametrize(
    ("said", "kubeconfig", "environ", "used"),
    [
        ("auto", "", {}, False),
        ("auto", "/k", {}, True),
        ("auto", "", IN_CLUSTER, True),
        ("off", "/k", IN_CLUSTER, False),
        ("on", "", {}, True),
    ],
)
def test_when_kubernetes_is_used(said, kubeconfig, environ, used):
    settings = AdaptorSettings(provider="memory", kubernetes=said)
    assert uses_kubernetes(settings, KubeSettings(kubeconfig=kubeconfig), environ) is used


@pytest_twisted.ensureDeferred
async def test_a_pod_without_a_token_works_without_kubernetes_unless_it_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr("peerpods.kube.client.access.SERVICE_ACCOUNT", str(tmp_path / "none"))
    place = Place(node="n", cluster="c")
    for said in ("auto", "on"):
        settings = AdaptorSettings(provider="memory", kubernetes=said, limit_per_node=3)
        provider = MemoryProvider(MemorySettings(), reactor)
        service = make_service(settings, GuestSettings(), provider, reactor, KubeSettings())
        if said == "auto":
            assert (await service._open_cluster(place, 1000)).limit().count == 3
        else:
            with pytest.raises(ConfigError):
                await service._open_cluster(place, 1000)


def test_the_limit_of_the_setting_holds(tmp_path):
    scene = Scene(str(tmp_path))
    scene.make_cluster = lambda _crash: Alone(1)
    scene.start()
    scene.running()
    call = scene.create("b" * 64)
    assert isinstance(call.error(), Refused)
    assert "--limit-per-node" in str(call.error())
    scene.create().ok()  # the same request again is no second sandbox
    scene.cloud.delete_delay = 30
    scene.end().ok()
    scene.create("c" * 64).ok()


def test_creates_at_once_do_not_pass_the_limit_together(tmp_path):
    scene = Scene(str(tmp_path))
    scene.make_cluster = lambda _crash: Alone(2)
    scene.start()
    scene.node.hang.add("open")
    calls = [scene.create(letter * 64) for letter in "bcde"]
    assert [call.done for call in calls] == [False, False, True, True]
    assert len(scene.adaptor.runner.sandboxes) == 2
