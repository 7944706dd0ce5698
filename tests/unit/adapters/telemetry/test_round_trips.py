"""Tests that every round trip to Redis is counted, and that an outage is logged in two lines."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.round_trips import RateLimitTelemetry, RedisTelemetry


def test_an_outage_is_logged_in_two_lines() -> None:
    """The first failure and the recovery are logged, however long the outage lasts. Skipped commands are counted."""
    registry = Registry("ibex_proxy_")
    telemetry = RedisTelemetry(registry)
    with capture_logs() as logged:
        telemetry.answered(3, 1_000_000)
        for _ in range(5):
            telemetry.failed("timeout")
            telemetry.passed_over()
        telemetry.answered(1, 1_000_000)
        telemetry.answered(1, 1_000_000)

    assert [(line["log_level"], line.get("reason")) for line in logged] == [("warning", "timeout"), ("info", None)]
    text = registry.render()[0].decode()
    for outcome, count in (("answered", 5.0), ("failed", 5.0), ("passed_over", 5.0)):
        assert f'ibex_proxy_redis_questions_total{{outcome="{outcome}"}} {count}' in text
    assert "ibex_proxy_redis_round_trip_seconds_count 3.0" in text


def test_a_request_counted_in_process_is_counted_as_a_fallback() -> None:
    """Only the proxy has this metric, because auth does not count requests."""
    registry = Registry("ibex_proxy_")
    RateLimitTelemetry(registry).counted_in_process()

    assert "ibex_proxy_rate_limit_fallbacks_total 1.0" in registry.render()[0].decode()
