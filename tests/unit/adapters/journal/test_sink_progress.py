"""Whether a sink is stuck."""

from __future__ import annotations

from ibex.adapters.journal.sink_progress import STUCK_AFTER_S, SinkProgress
from ibex.adapters.journal.writer import Snapshot
from ibex.domain.record.journal import Sink


class _Scene:
    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.progress = SinkProgress(lambda: self.now_s)

    def after(self, seconds: float, last: int, checkpoints: int, traces: int) -> Sink | None:
        """Let time pass, report a state of the journal, and return the sink that is stuck."""
        self.now_s += seconds
        acknowledged = {Sink.CHECKPOINTS: checkpoints, Sink.TRACES: traces}
        self.progress.update(Snapshot(last, 0, acknowledged))
        return self.progress.stuck()


def test_a_sink_without_an_acknowledgement_is_stuck() -> None:
    """New exchanges are no progress, and the other sink is not affected."""
    scene = _Scene()
    assert scene.after(0, last=1, checkpoints=0, traces=0) is None
    assert scene.after(STUCK_AFTER_S - 1, last=2, checkpoints=0, traces=1) is None
    assert scene.after(2, last=3, checkpoints=0, traces=2) is Sink.CHECKPOINTS
    assert scene.after(0, last=3, checkpoints=1, traces=2) is None


def test_a_sink_that_falls_behind_is_not_stuck() -> None:
    """Each acknowledgement is progress, whatever is pending."""
    scene = _Scene()
    for number in range(1, 10):
        assert scene.after(STUCK_AFTER_S - 1, last=100 * number, checkpoints=number, traces=number) is None


def test_a_sink_without_pending_exchanges_is_not_stuck() -> None:
    """The time begins with the first exchange after a silence."""
    scene = _Scene()
    assert scene.after(10 * STUCK_AFTER_S, last=0, checkpoints=0, traces=0) is None
    assert scene.after(10 * STUCK_AFTER_S, last=1, checkpoints=0, traces=0) is None
    assert scene.after(STUCK_AFTER_S + 1, last=1, checkpoints=0, traces=1) is Sink.CHECKPOINTS
