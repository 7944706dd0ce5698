"""How Redis does is counted always and told when it changes."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.round_trips import RedisTelemetry


def test_an_outage_is_two_lines_however_long() -> None:
    """Its first failure, and its end; what was not asked is counted."""
    registry = Registry("ibex_proxy_")
    telemetry = RedisTelemetry(registry)
    with capture_logs() as logged:
        telemetry.answered(3, 1_000_000, leased=True)
        for _ in range(5):
            telemetry.failed("timeout")
            telemetry.passed_over()
        telemetry.answered(1, 1_000_000, leased=False)
        telemetry.answered(1, 1_000_000, leased=False)

    assert [(line["log_level"], line.get("reason")) for line in logged] == [("warning", "timeout"), ("info", None)]
    text = registry.render()[0].decode()
    for outcome, count in (("answered", 5.0), ("failed", 5.0), ("passed_over", 5.0)):
        assert f'ibex_proxy_redis_questions_total{{outcome="{outcome}"}} {count}' in text
    assert "ibex_proxy_redis_unleased_round_trips_total 2.0" in text
    assert "ibex_proxy_redis_round_trip_seconds_count 3.0" in text


def test_a_request_that_redis_did_not_count_is_counted() -> None:
    """And the lease that no round trip brings grows old."""
    registry = Registry("ibex_proxy_")
    telemetry = RedisTelemetry(registry)
    telemetry.counted_in_process()

    text = registry.render()[0].decode()

    assert "ibex_proxy_rate_limit_fallbacks_total 1.0" in text
    assert "ibex_proxy_lease_age_seconds " in text
