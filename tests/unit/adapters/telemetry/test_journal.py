"""Tests of the metrics of the journal."""

from __future__ import annotations

from datetime import timedelta

from harness.journal_entries import FullJournal
from harness.memory.clock import ManualClock
from ibex.adapters.telemetry.journal import JournalTelemetry, RecoveryTelemetry
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.record.journal import Sink


def test_journal_metrics_are_read_at_every_rendering() -> None:
    """No value is cached."""
    journal = FullJournal({Sink.TRACES: 3})
    clock = ManualClock()
    journal.since[Sink.TRACES] = clock.now() - timedelta(seconds=2.5)
    registry = Registry("ibex_proxy_")
    JournalTelemetry(registry, journal, clock)
    journal.depths[Sink.TRACES] = 4
    journal.traces_dropped = 2

    text = registry.render()[0].decode()

    assert 'ibex_proxy_journal_depth_exchanges{sink="traces"} 4.0' in text
    assert 'ibex_proxy_journal_depth_exchanges{sink="checkpoints"} 0.0' in text
    assert 'ibex_proxy_sink_lag_seconds{sink="traces"} 2.5' in text
    assert 'ibex_proxy_sink_lag_seconds{sink="checkpoints"} 0.0' in text
    assert "ibex_proxy_journal_bytes 400.0" in text
    assert "ibex_proxy_journal_fill_ratio 0.4" in text
    assert "ibex_proxy_journal_dropped_traces_total 2.0" in text


def test_the_last_search_for_orphaned_journals_is_exported() -> None:
    """All numbers exist from the start, and are replaced by each search."""
    registry = Registry("ibex_proxy_")
    recovery = RecoveryTelemetry(registry)
    assert "ibex_proxy_orphaned_journals 0.0" in registry.render()[0].decode()

    recovery.searched(2, 1, 3)

    text = registry.render()[0].decode()
    assert "ibex_proxy_orphaned_journals 2.0" in text
    assert "ibex_proxy_orphaned_journals_unreadable 1.0" in text
    assert "ibex_proxy_journals_of_newer_versions 3.0" in text
