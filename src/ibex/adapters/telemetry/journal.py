"""How full the journal is, asked when somebody wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ibex.adapters.telemetry.exposition import Merge
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from datetime import datetime

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock

_US_A_SECOND: Final = 1_000_000


class MeasuredJournal(Protocol):
    """A journal that knows how full it is. Nothing of it blocks."""

    traces_dropped: int

    def depth(self, sink: Sink) -> int:
        """Return how many exchanges wait for the sink."""

    def stored_bytes(self) -> int:
        """Return how many bytes wait for a sink."""

    def waits_since(self, sink: Sink) -> datetime | None:
        """Return since when the oldest exchange that waits for the sink has waited; None if none does."""


class JournalTelemetry:
    """Shows a journal among the metrics of a registry."""

    def __init__(self, registry: Registry, journal: MeasuredJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        depth = registry.gauges("journal_depth_exchanges", "Exchanges that wait.", "sink")
        self._depth = [(sink, depth.of(sink)) for sink in Sink]
        lag = registry.gauges(
            "sink_lag_seconds", "Age of the oldest exchange that waits.", "sink", merge=Merge.MAX, divisor=_US_A_SECOND
        )
        self._lag = [(sink, lag.of(sink)) for sink in Sink]
        self._bytes = registry.gauges("journal_bytes", "Bytes that wait.").of()
        self._dropped = registry.counter("journal_dropped_traces_total", "Traces that were dropped for want of room.")
        registry.refreshed_by(self.refresh)

    def refresh(self) -> None:
        """Take note of what the journal says now."""
        for sink, depth in self._depth:
            depth.set(self._journal.depth(sink))
        now = self._clock.now()
        for sink, lag in self._lag:
            since = self._journal.waits_since(sink)
            lag.set(0 if since is None else max(0, int((now - since).total_seconds() * _US_A_SECOND)))
        self._bytes.set(self._journal.stored_bytes())
        self._dropped.catch_up(self._journal.traces_dropped)
