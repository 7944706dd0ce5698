"""Tests of the telemetry of auth's ops port."""

from __future__ import annotations

from uuid import UUID

from structlog.testing import capture_logs

from ibex.adapters.telemetry.current_request import CURRENT
from ibex.adapters.telemetry.ops import AuthMetrics, OpsTelemetry


def test_an_exception_is_counted_and_logged_without_its_message() -> None:
    """Nothing else is logged, because probes arrive every second."""
    metrics = AuthMetrics()
    telemetry = OpsTelemetry(metrics)
    with capture_logs() as logged:
        telemetry.began(UUID(int=1), "t")
        assert CURRENT.get() is not None
        telemetry.ended("GET", "/ready", 503, 1, None)
        assert CURRENT.get() is None
        telemetry.began(UUID(int=2), "t")
        telemetry.failed(RuntimeError("canary"))

    assert [line["event"] for line in logged] == ["unhandled exception"]
    assert "canary" not in str(logged)
    assert b"ibex_auth_internal_errors_total 1.0" in metrics.render()[0]
    CURRENT.set(None)
