"""The in-memory traces beyond the contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from harness.exchanges import an_exchange
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.traces import InMemoryTraces
from ibex.domain.record.traces import trace_of


async def test_the_span_ends_by_the_clock_that_it_was_given() -> None:
    """Time is an argument: moving the clock on moves the span."""
    clock = ManualClock()
    traces = InMemoryTraces(clock)
    trace = trace_of(an_exchange())
    assert trace is not None
    await traces.write([replace(trace, requested_at=clock.now())], "a-batch")
    assert len(await traces.summary(trace.org_id, timedelta(hours=1))) == 1
    clock.advance(timedelta(hours=1, microseconds=1))
    assert list(await traces.summary(trace.org_id, timedelta(hours=1))) == []
