"""The shim's calls one to three times in any order, with lost connections, kills and faults between: same end."""

from __future__ import annotations

import shutil
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peerpods.errors import CloudError, CloudFailure, LinkError, LinkFailure
from peerpods.model import Phase
from tests.adaptor.world import NETNS, Call, Scene

IDS = ["a" * 64, "b" * 64]


class AnyOrder(RuleBasedStateMachine):
    """Whatever is done, at the end nothing is left, and nothing was ever made twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.scene = Scene(self.folder)
        self.scene.start()
        self.flying: list[Call] = []

    @rule(sandbox=st.sampled_from(IDS), times=st.integers(1, 3))
    def create(self, sandbox, times):
        self.flying += [self.scene.create(sandbox) for _ in range(times)]

    @rule(sandbox=st.sampled_from(IDS), times=st.integers(1, 3))
    def begin(self, sandbox, times):
        self.flying += [self.scene.begin(sandbox) for _ in range(times)]

    @rule(sandbox=st.sampled_from(IDS), times=st.integers(1, 3))
    def end(self, sandbox, times):
        for _ in range(times):
            self.scene.end(sandbox).ok()

    @rule(seconds=st.sampled_from([0.5, 2.0, 12.0]))
    def wait(self, seconds):
        self.scene.advance(seconds)

    @rule()
    def lose_a_connection(self):
        for call in self.flying:
            if not call.done:
                call.drop()
                break

    @rule()
    def kill(self):
        self.scene.kill()
        self.flying.clear()
        self.scene.start()

    @rule()
    def restart_the_relay(self):
        self.scene.node.sockets.clear()
        self.scene.node.links.clear()
        self.scene.sync()

    @rule(delay=st.sampled_from([0.0, 1.0, 15.0]))
    def slow_cloud(self, delay):
        self.scene.cloud.create_delay = delay

    @rule(kind=st.sampled_from(list(CloudFailure)), times=st.integers(1, 5))
    def create_fails(self, kind, times):
        self.scene.cloud.create_errors = [CloudError("no", kind=kind) for _ in range(times)]

    @rule(times=st.integers(1, 3))
    def delete_fails(self, times):
        self.scene.cloud.delete_errors = [CloudError("not now") for _ in range(times)]

    @rule()
    def link_fails(self):
        self.scene.node.link_errors = [LinkError("refused", kind=LinkFailure.REFUSED)]

    @invariant()
    def one_instance_a_sandbox(self):
        tokens = [instance.token for instance in self.scene.cloud.instances.values()]
        assert len(tokens) == len(set(tokens))

    @invariant()
    def a_running_pod_has_what_it_needs(self):
        for record in self.scene.adaptor.runner.living():
            if record.phase is Phase.RUNNING:
                assert record.instance is not None
                assert record.instance.id in self.scene.cloud.instances
                assert record.id in self.scene.node.links
                assert record.id in self.scene.node.tunnels

    def teardown(self):
        self.scene.node.namespaces.discard(NETNS)
        self.scene.advance(200)
        for sandbox in IDS:
            self.scene.end(sandbox).ok()
        self.scene.advance(120)
        try:
            self.scene.nothing_left()
            assert not self.scene.adaptor.runner.living()
        finally:
            self.scene.kill()
            shutil.rmtree(self.folder)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
