"""What the adaptor counts, for Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.task import LoopingCall

from peerpods.adaptor.journal import Journal
from peerpods.adaptor.runner import Runner
from peerpods.adaptor.sandbox import Sandbox
from peerpods.model import Phase
from peerpods.ttrpc import CallContext, Code

PERIOD = 15.0  # seconds between two looks at the journal's size


class Meters:
    """Told of changes and calls; sets the metrics of `peerpods.obs.metrics`."""

    def __init__(self) -> None:
        self._states: Counter[str] = Counter()
        self._loop: LoopingCall | None = None

    def start(self, reactor: Any, runner: Runner, journal: Journal) -> None:
        """Look at the journal's size now and then; every state is shown from the start."""
        from peerpods.obs.metrics import JOURNAL_BYTES, SANDBOXES

        for phase in Phase:
            if phase is not Phase.GONE:
                SANDBOXES.labels(phase.value).set(self._states[phase.value])
        self._loop = LoopingCall(lambda: JOURNAL_BYTES.set(journal.size()))
        self._loop.clock = reactor
        self._loop.start(PERIOD)

    def stop(self) -> None:
        """Look no more."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    def changed(self, before: Sandbox | None, after: Sandbox) -> None:
        """A sandbox is in another phase."""
        from peerpods.obs.metrics import PHASE_SECONDS, SANDBOXES

        for record, step in ((before, -1), (after, 1)):
            if record is not None and record.phase is not Phase.GONE:
                self._states[record.phase.value] += step
                SANDBOXES.labels(record.phase.value).set(self._states[record.phase.value])
        if before is not None and after.phase is Phase.RUNNING:
            for step_name, took_ms in after.phases:
                PHASE_SECONDS.labels(step_name).observe(took_ms / 1000)
        if before is not None and after.phase is Phase.GONE:
            PHASE_SECONDS.labels("stop").observe(max(0.0, after.changed_at - before.changed_at))

    def call_done(self, context: CallContext, code: int, _seconds: float) -> None:
        """A call was answered."""
        from peerpods.obs.metrics import RPCS

        RPCS.labels(context.service, context.method, Code(code).name if code in _CODES else str(code)).inc()


_CODES = frozenset(int(code) for code in Code)
