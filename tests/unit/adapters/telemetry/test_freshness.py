"""Tests of the metrics and log lines of a worker's watch."""

from __future__ import annotations

from uuid import UUID

from structlog.testing import capture_logs

from ibex.adapters.telemetry.freshness import WatchTelemetry
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind

ORG = UUID(int=0x0A)
S = 1_000_000_000


class Clock:
    """The worker's monotonic clock."""

    def __init__(self) -> None:
        self.now_ns = 5 * S

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        return self.now_ns


def shown(registry: Registry, name: str) -> list[str]:
    """Return the lines of a metric."""
    lines = registry.render()[0].decode().splitlines()
    return sorted(line.removeprefix("ibex_proxy_") for line in lines if line.startswith(f"ibex_proxy_{name}"))


def test_events_are_counted_by_kind_and_resets_separately() -> None:
    """An event for a created token counts like any other event of its kind."""
    registry = Registry("ibex_proxy_")
    telemetry = WatchTelemetry(registry, Clock())

    telemetry.reset()
    telemetry.changed(Change(ORG, Kind.TOKENS))
    telemetry.changed(Change(ORG, Kind.TOKENS, UUID(int=1)))
    telemetry.changed(Change(ORG, Kind.DIRECTIVES))

    assert shown(registry, "watch_events") == [
        'watch_events_total{kind="directives"} 1.0',
        'watch_events_total{kind="tokens"} 2.0',
    ]
    assert shown(registry, "watch_resets") == ["watch_resets_total 1.0"]


def test_the_confirmation_age_is_the_time_since_the_last_answered_ping() -> None:
    """Before the first pong, the age counts from the start. A slow pong does not reduce the age further."""
    clock, registry = Clock(), Registry("ibex_proxy_")
    telemetry = WatchTelemetry(registry, clock)

    clock.now_ns += 2 * S
    assert shown(registry, "watch_confirmation") == ["watch_confirmation_age_seconds 2.0"]
    telemetry.confirmed(clock.now_ns - S // 2)
    assert shown(registry, "watch_confirmation") == ["watch_confirmation_age_seconds 0.5"]


def test_an_unconfirmed_watch_is_logged_in_two_lines() -> None:
    """The start and the end are logged, however long it lasts. A confirmed watch logs nothing."""
    clock, registry = Clock(), Registry("ibex_proxy_")
    telemetry = WatchTelemetry(registry, clock)

    with capture_logs() as logged:
        for _ in range(10):
            clock.now_ns += S
            telemetry.confirmed(clock.now_ns)
            registry.render()
        for _ in range(10):
            clock.now_ns += S
            registry.render()
        for _ in range(2):
            telemetry.confirmed(clock.now_ns)
            registry.render()

    assert [(line["log_level"], line["source"]) for line in logged] == [
        ("warning", "ibex.freshness"),
        ("info", "ibex.freshness"),
    ]
