"""Following traces in the order of their insertion."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from harness.exchanges import REQUESTED_AT, an_exchange
from harness.memory.clock import ManualClock
from harness.memory.traces import InMemoryTraces
from ibex.domain.record.trace_follower import OVERLAP, TraceFollower
from ibex.domain.record.traces import Trace, trace_of

ORG = UUID(int=5)


def a_trace(number: int, requested_after_s: float = 0.0) -> Trace:
    """Return a trace with this number, requested so many seconds after ``REQUESTED_AT``."""
    asked = REQUESTED_AT + timedelta(seconds=requested_after_s)
    trace = trace_of(an_exchange(emitter_seq=number, requested_at=asked))
    assert trace is not None
    return trace


class Scene:
    """A history with a clock, and a follower of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.history = InMemoryTraces(self.clock)
        self.following = TraceFollower(self.history, ORG)

    async def store(self, *traces: Trace) -> None:
        """Store a batch, half a second after the one before."""
        self.clock.advance(timedelta(seconds=0.5))
        await self.history.write(traces, str(uuid4()))


@pytest.fixture
def scene() -> Scene:
    """An empty history."""
    return Scene()


async def test_a_long_request_is_returned_when_it_ends(scene: Scene) -> None:
    """A request that began later but was stored earlier does not hide it."""
    long, short = a_trace(2, requested_after_s=0), a_trace(1, requested_after_s=300)
    await scene.following.begin(20)
    await scene.store(short)
    assert await scene.following.next() == [short]
    await scene.store(long)
    assert await scene.following.next() == [long]
    assert await scene.following.next() == []


async def test_a_burst_is_returned_completely(scene: Scene) -> None:
    """The limit applies only to the first call."""
    await scene.following.begin(20)
    burst = [a_trace(number) for number in range(1, 121)]
    await scene.store(*burst)
    assert await scene.following.next() == burst


async def test_earlier_traces_are_returned_up_to_the_limit(scene: Scene) -> None:
    """Older traces are not returned later."""
    before = [a_trace(number, requested_after_s=number) for number in range(1, 6)]
    await scene.store(*before)
    assert await scene.following.begin(2) == before[-2:]
    assert await scene.following.next() == []


async def test_no_trace_is_returned_twice_or_remembered_forever(scene: Scene) -> None:
    """Queries overlap a little. Known traces are ignored, and dropped once no query can find them."""
    await scene.following.begin(20)
    found: list[Trace] = []
    for number in range(1, 101):
        await scene.store(a_trace(number))
        found += await scene.following.next()
    assert [trace.emitter_seq for trace in found] == list(range(1, 101))
    assert scene.following.remembered <= OVERLAP / timedelta(seconds=0.5) + 1


async def test_a_trace_that_becomes_visible_late_is_returned(scene: Scene) -> None:
    """An insert takes a moment, so its time of insertion can be before that of a trace that was returned."""
    await scene.following.begin(20)
    await scene.store(a_trace(1))
    late = a_trace(2)
    await scene.store(a_trace(3))
    assert len(await scene.following.next()) == 2
    scene.clock.set(scene.clock.now() - timedelta(seconds=1))
    await scene.history.write([late], "late")
    assert await scene.following.next() == [late]
