"""How Redis does is counted always and told when it changes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from ibex.adapters.telemetry.round_trips import RedisTelemetry


def test_an_outage_is_two_lines_however_long() -> None:
    """Its first failure, and its end; what was not asked is counted."""
    registry = CollectorRegistry()
    telemetry = RedisTelemetry(registry)
    with capture_logs() as logged:
        telemetry.answered(3, 1_000_000)
        for _ in range(5):
            telemetry.failed("timeout")
            telemetry.passed_over()
        telemetry.answered(1, 1_000_000)
        telemetry.answered(1, 1_000_000)

    assert [(line["log_level"], line.get("reason")) for line in logged] == [("warning", "timeout"), ("info", None)]
    text = generate_latest(registry).decode()
    for outcome, count in (("answered", 5.0), ("failed", 5.0), ("passed_over", 5.0)):
        assert f'ibex_proxy_redis_questions_total{{outcome="{outcome}"}} {count}' in text
    assert "ibex_proxy_redis_round_trip_seconds_count 3.0" in text
