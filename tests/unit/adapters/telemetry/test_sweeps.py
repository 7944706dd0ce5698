"""Tests that every failed sweep is counted, and that an outage is logged in one line."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.sweeps import SweepTelemetry


def test_sweeps_are_counted_and_an_outage_is_logged_once() -> None:
    """After a successful sweep, the next failure is logged again."""
    registry = Registry("ibex_proxy_")
    telemetry = SweepTelemetry(registry)

    with capture_logs() as logged:
        telemetry.abandoned(3)
        for _ in range(5):
            telemetry.sweep_failed("the database is down")
        telemetry.abandoned(4)
        telemetry.sweep_failed("the database is down")

    assert [line["log_level"] for line in logged] == ["info", "warning", "info", "warning"]
    text = registry.render()[0].decode()
    assert "ibex_proxy_sessions_abandoned_total 7.0" in text
    assert "ibex_proxy_session_sweep_failures_total 6.0" in text
