"""Metrics of the journal: its depth, size and delivery lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ibex.adapters.telemetry.exposition import Merge
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from datetime import datetime

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock

_US_PER_SECOND: Final = 1_000_000
_PARTS: Final = 1_000_000
"""The resolution of a ratio."""


class MeasuredJournal(Protocol):
    """A journal that reports its size. No method blocks."""

    traces_dropped: int
    max_bytes: int
    """The maximum size, in bytes, of the pending exchanges."""

    def depth(self, sink: Sink) -> int:
        """Return the number of exchanges that are pending for the sink."""

    def stored_bytes(self) -> int:
        """Return the total size, in bytes, of the pending exchanges."""

    def pending_since(self, sink: Sink) -> datetime | None:
        """Return the time since which the oldest exchange for the sink is pending, None if nothing is."""


class JournalTelemetry:
    """Exports the state of a journal as metrics."""

    def __init__(self, registry: Registry, journal: MeasuredJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        depth = registry.gauges("journal_depth_exchanges", "Exchanges pending in the journal.", "sink")
        self._depth = [(sink, depth.of(sink)) for sink in Sink]
        lag = registry.gauges(
            "sink_lag_seconds", "Age of the oldest pending exchange.", "sink", merge=Merge.MAX, divisor=_US_PER_SECOND
        )
        self._lag = [(sink, lag.of(sink)) for sink in Sink]
        self._bytes = registry.gauges("journal_bytes", "Bytes pending in the journal.").of()
        self._fill = registry.gauges(
            "journal_fill_ratio", "Fill level of the fullest journal, from 0 to 1.", merge=Merge.MAX, divisor=_PARTS
        ).of()
        self._dropped = registry.counter("journal_dropped_traces_total", "Traces dropped because the journal was full.")
        registry.on_refresh(self.refresh)

    def refresh(self) -> None:
        """Read the state of the journal into the metrics."""
        for sink, depth in self._depth:
            depth.set(self._journal.depth(sink))
        now = self._clock.now()
        for sink, lag in self._lag:
            since = self._journal.pending_since(sink)
            lag.set(0 if since is None else max(0, int((now - since).total_seconds() * _US_PER_SECOND)))
        stored = self._journal.stored_bytes()
        self._bytes.set(stored)
        self._fill.set(stored * _PARTS // self._journal.max_bytes)
        self._dropped.catch_up(self._journal.traces_dropped)


class RecoveryTelemetry:
    """Counts the orphaned journals that a process recovers, and those that it cannot read."""

    def __init__(self, registry: Registry) -> None:
        self._recovering = registry.gauges(
            "orphaned_journals", "Orphaned journals that are being delivered; each worker delivers one at a time."
        ).of()
        self._unreadable = registry.gauges(
            "orphaned_journals_unreadable", "Orphaned journals that cannot be opened.", merge=Merge.MAX
        ).of()
        self._newer = registry.gauges(
            "journals_of_newer_versions",
            "Orphaned journals that only a newer version of IBEX can read.",
            merge=Merge.MAX,
        ).of()

    def searched(self, recovering: int, unreadable: int, newer: int) -> None:
        """Set the number of journals that the process has taken, could not open, and left to a newer version."""
        self._recovering.set(recovering)
        self._unreadable.set(unreadable)
        self._newer.set(newer)
