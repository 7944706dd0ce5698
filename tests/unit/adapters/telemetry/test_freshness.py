"""What is counted and told of the lease."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.freshness import LeaseAge, LeaseTelemetry
from ibex.adapters.telemetry.registry import Registry


def _counted(registry: Registry) -> list[str]:
    lines = registry.render()[0].decode().splitlines()
    return [line for line in lines if line.startswith("ibex") and "lease_turns" in line]


def test_turns_are_counted_under_the_services_name() -> None:
    """By outcome: renewed, or why not."""
    registry = Registry("ibex_auth_")
    telemetry = LeaseTelemetry(registry)

    telemetry.renewed()
    telemetry.not_renewed("board")
    telemetry.not_renewed("board")

    assert sorted(_counted(registry)) == [
        'ibex_auth_lease_turns_total{outcome="board"} 2.0',
        'ibex_auth_lease_turns_total{outcome="renewed"} 1.0',
    ]


def test_a_lease_that_is_not_renewed_is_told_once() -> None:
    """A line when it fails, one when the reason is another, one when it is renewed again; none in good times."""
    telemetry = LeaseTelemetry(Registry("ibex_auth_"))

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


def test_a_first_turn_that_comes_too_early_is_no_warning() -> None:
    """As in every healthy start; if the second is no better, it is one."""
    healthy, ill = (LeaseTelemetry(Registry("ibex_auth_")) for _ in range(2))

    with capture_logs() as logged:
        healthy.not_renewed("filter")
        healthy.renewed()
        ill.not_renewed("filter")
        ill.not_renewed("filter")

    assert [(line["log_level"], line["event"]) for line in logged] == [
        ("info", "lease is not renewed yet"),
        ("info", "lease is not renewed yet"),
        ("warning", "lease is not renewed"),
    ]


def test_a_lease_grows_old_until_it_is_renewed() -> None:
    """From the start on, if it never was."""
    now_ns = [5_000_000_000]
    registry = Registry("ibex_auth_")
    age = LeaseAge(registry, "Old.", lambda: now_ns[0])

    def shown() -> str:
        text = registry.render()[0].decode()
        return next(line for line in text.splitlines() if line.startswith("ibex_auth_lease_age_seconds "))

    now_ns[0] += 3_500_000_000
    assert shown() == "ibex_auth_lease_age_seconds 3.5"
    age.renewed()
    assert shown() == "ibex_auth_lease_age_seconds 0.0"
