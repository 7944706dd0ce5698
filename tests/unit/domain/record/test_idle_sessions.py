"""Sweeps of idle sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from harness.memory.clock import ManualClock
from ibex.domain.record.idle_sessions import BATCH, SWEEP_INTERVAL_S, AbandonIdleSessions
from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

IDLE_S = 1_800.0
OUTAGE = SinkUnavailableError("it is down")


class Scene:
    """The use case over a store with scripted answers. It ends at the given sleep."""

    def __init__(self, *answers: int | SinkUnavailableError | None, sleeps: int = 1) -> None:
        self.clock = ManualClock()
        self.asked: list[tuple[datetime, int]] = []
        self.observed = Observed()
        self.slept: list[float] = []
        self._answers: Sequence[int | SinkUnavailableError | None] = answers
        self._sleeps = sleeps

    async def run(self) -> None:
        """Sweep."""
        use_case = AbandonIdleSessions(self, self.clock, self.observed, idle_s=IDLE_S, sleep=self._sleep)
        await asyncio.wait([asyncio.create_task(use_case.run())])

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Return the next answer."""
        self.asked.append((idle_since, limit))
        answer = self._answers[len(self.asked) - 1]
        if isinstance(answer, SinkUnavailableError):
            raise answer
        return answer

    async def _sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.clock.advance(timedelta(seconds=duration_s))
        if len(self.slept) == self._sleeps:
            raise asyncio.CancelledError


@dataclass(slots=True)
class Observed:
    """A ``SweepObserver`` that remembers."""

    counts: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def abandoned(self, sessions: int) -> None:
        """Remember."""
        self.counts.append(sessions)

    def sweep_failed(self, reason: str) -> None:
        """Remember."""
        self.failures.append(reason)


async def test_sessions_are_swept_every_minute() -> None:
    """A sweep covers sessions without a turn for the configured time, measured when the sweep begins."""
    scene = Scene(2, 0, 1, sleeps=3)
    began = scene.clock.now()
    await scene.run()
    idle = timedelta(seconds=IDLE_S)
    minute = timedelta(seconds=SWEEP_INTERVAL_S)
    assert scene.asked == [(began + n * minute - idle, BATCH) for n in range(3)]
    assert scene.slept == [SWEEP_INTERVAL_S] * 3
    assert scene.observed.counts == [2, 1]


async def test_a_backlog_is_swept_in_batches() -> None:
    """All batches use the same time. The sweep ends with a batch that is not full."""
    scene = Scene(BATCH, BATCH, 7)
    await scene.run()
    assert len(set(scene.asked)) == 1
    assert scene.observed.counts == [BATCH, BATCH, 7]


async def test_a_sweep_ends_if_another_process_is_sweeping() -> None:
    """It also ends in the middle of a backlog."""
    scene = Scene(None, BATCH, None, sleeps=2)
    await scene.run()
    assert scene.observed.counts == [BATCH]
    assert scene.observed.failures == []


async def test_an_outage_ends_only_the_current_sweep() -> None:
    """The failure is reported, and the next sweep continues."""
    scene = Scene(BATCH, OUTAGE, 5, sleeps=2)
    await scene.run()
    assert scene.observed.counts == [BATCH, 5]
    assert scene.observed.failures == ["it is down"]
