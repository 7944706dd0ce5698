"""Tests that every failure of a sink is counted, and that an outage is logged in two lines."""

from __future__ import annotations

from structlog.testing import capture_logs

from harness.journal_entries import FullJournal
from harness.memory.clock import ManualClock
from ibex.adapters.telemetry.deliveries import DeliveryTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.domain.record.journal import Sink


def test_an_outage_is_logged_in_two_lines() -> None:
    """The first failure and the recovery are logged, however long the outage lasts. Each sink has its own outages."""
    metrics = Metrics(ManualClock(), FullJournal())
    telemetry = DeliveryTelemetry(metrics)

    with capture_logs() as logged:
        telemetry.delivered(Sink.TRACES, 1, 1)
        for _ in range(50):
            telemetry.failed(Sink.TRACES, 3, "connection refused")
        telemetry.failed(Sink.CHECKPOINTS, 1, "timeout")
        telemetry.delivered(Sink.TRACES, 3, 1)
        telemetry.delivered(Sink.TRACES, 3, 1)

    assert [(line["log_level"], line["sink"]) for line in logged] == [
        ("warning", "traces"),
        ("warning", "checkpoints"),
        ("info", "traces"),
    ]
    assert logged[0]["reason"] == "connection refused"
    text = metrics.render()[0].decode()
    assert 'ibex_proxy_sink_failures_total{sink="traces"} 50.0' in text
    assert 'ibex_proxy_sink_rows_total{sink="traces"} 7.0' in text
