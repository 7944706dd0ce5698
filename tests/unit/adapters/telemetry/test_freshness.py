"""What is counted and told of caches and the lease."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from ibex.adapters.telemetry.freshness import CacheTelemetry, LeaseTelemetry
from ibex.domain.freshness import Kind


def _counted(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


def test_lookups_are_counted_by_kind_and_outcome() -> None:
    """Each of the four has a word of its own."""
    registry = CollectorRegistry()
    telemetry = CacheTelemetry(registry)

    for _ in range(2):
        telemetry.hit(Kind.TOKENS)
    telemetry.missed(Kind.AGENTS)
    telemetry.refetched(Kind.DIRECTIVES)
    telemetry.served_stale(Kind.TOKENS)

    assert sorted(_counted(registry)) == [
        'ibex_proxy_cache_lookups_total{kind="agents",outcome="miss"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="refetch"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="tokens",outcome="hit"} 2.0',
        'ibex_proxy_cache_lookups_total{kind="tokens",outcome="stale"} 1.0',
    ]


def test_turns_are_counted_under_the_services_name() -> None:
    """By outcome: renewed, or why not."""
    registry = CollectorRegistry()
    telemetry = LeaseTelemetry(registry, "auth")

    telemetry.renewed()
    telemetry.not_renewed("board")
    telemetry.not_renewed("board")

    assert sorted(_counted(registry)) == [
        'ibex_auth_lease_turns_total{outcome="board"} 2.0',
        'ibex_auth_lease_turns_total{outcome="renewed"} 1.0',
    ]


def test_a_lease_that_is_not_renewed_is_told_once() -> None:
    """A line when it fails, one when the reason is another, one when it is renewed again; none in good times."""
    telemetry = LeaseTelemetry(CollectorRegistry(), "auth")

    with capture_logs() as logged:
        telemetry.renewed()
        for _ in range(50):
            telemetry.not_renewed("board")
        telemetry.not_renewed("outbox")
        telemetry.renewed()
        telemetry.renewed()
        telemetry.not_renewed("board")

    assert [(line["log_level"], line.get("reason")) for line in logged] == [
        ("warning", "board"),
        ("warning", "outbox"),
        ("info", None),
        ("warning", "board"),
    ]
