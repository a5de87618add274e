"""The shim's calls in any order, with kills and faults, in a cluster whose API server comes and goes: same end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from peerpods.kube.objects.resources import PEER_PODS, PODS
from tests.adaptor.world import NETNS
from tests.faults.test_any_order import IDS, AnyOrder
from tests.kube.adaptor.fake import play_on


class AnyOrderInACluster(AnyOrder):
    """Whatever is done, at the end there is neither a VM nor an object."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self.folder = tempfile.mkdtemp()
        self.scene, self.server = play_on(Path(self.folder))
        self.scene.start()
        self.flying = []

    @rule()
    def kill(self):
        self.scene.kill()
        self.server.watchers.clear()
        self.flying.clear()
        self.scene.start()

    @rule()
    def api_server_goes(self):
        self.server.away = True

    @rule()
    def api_server_hangs(self):
        self.server.hanging = True

    @rule()
    def api_server_comes_back(self):
        self.server.come_back()

    @precondition(lambda self: ("pods", "lab", "web") in self.server.objects)
    @rule()
    def pod_goes(self):
        self.server.drop(PODS, "web", "lab")
        self.server.collect()

    @precondition(lambda self: ("pods", "lab", "web") not in self.server.objects)
    @rule()
    def pod_comes(self):
        self.server.pod()

    @precondition(lambda self: self.server.peerpods())
    @rule()
    def somebody_removes_an_object(self):
        self.server.drop(PEER_PODS, self.server.peerpods()[0]["metadata"]["name"], "lab")

    @rule()
    def wait_long(self):
        self.scene.advance(310, step=5)

    def teardown(self):
        self.scene.node.namespaces.discard(NETNS)
        self.scene.advance(200)
        for sandbox in IDS:
            self.scene.end(sandbox).ok()
        self.scene.advance(120)
        self.server.come_back()
        self.scene.advance(400, step=2)
        try:
            self.scene.nothing_left()
            assert not self.scene.adaptor.runner.living()
            assert not self.server.peerpods()
        finally:
            self.scene.kill()
            shutil.rmtree(self.folder)


TestAnyOrderInACluster = AnyOrderInACluster.TestCase
TestAnyOrderInACluster.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
