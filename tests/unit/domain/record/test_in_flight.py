"""The state of an in-flight exchange."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from harness.memory.clock import ManualClock
from ibex.domain.directives.model import Directive, InjectionMode
from ibex.domain.record.exchange import DirectiveReceipt, Stage, Timings
from ibex.domain.record.in_flight import InFlightExchange

MS = timedelta(milliseconds=1)


def opened() -> tuple[InFlightExchange, ManualClock]:
    """Begin an exchange, and return it with its clock."""
    clock = ManualClock()
    return InFlightExchange.begin(clock, UUID(int=1), "t" * 32), clock


def test_stages_that_were_not_reached_have_no_duration() -> None:
    """A request that is refused at once has only its total."""
    in_flight, clock = opened()
    clock.advance(2 * MS)

    assert in_flight.timings() == Timings(overhead_ns=2_000_000, total_ns=2_000_000)


def test_a_stage_that_a_refusal_ends_has_its_duration() -> None:
    """The duration of a refusal is recorded. A later call returns the same value."""
    in_flight, clock = opened()
    in_flight.enter(Stage.AUTHENTICATE)
    clock.advance(3 * MS)

    assert in_flight.timings().auth_ns == 3_000_000
    clock.advance(MS)
    assert in_flight.timings().auth_ns == 3_000_000


def test_a_stage_that_is_entered_twice_has_the_sum_of_its_durations() -> None:
    """Time outside the stage does not count."""
    in_flight, clock = opened()
    for _ in range(2):
        in_flight.enter(Stage.DIRECTIVE)
        clock.advance(2 * MS)
        in_flight.enter(None)
        clock.advance(MS)

    assert in_flight.timings().directive_ns == 4_000_000


def test_a_stage_ends_when_the_next_one_begins() -> None:
    """A stage never contains the time of another, and need not be ended explicitly."""
    in_flight, clock = opened()
    for milliseconds, stage in enumerate((Stage.AUTHENTICATE, Stage.RATE_LIMIT, Stage.DIRECTIVE, Stage.INJECT), 1):
        in_flight.enter(stage)
        clock.advance(milliseconds * MS)

    timings = in_flight.timings()
    assert (timings.auth_ns, timings.rate_limit_ns, timings.directive_ns, timings.inject_ns) == (
        1_000_000,
        2_000_000,
        3_000_000,
        4_000_000,
    )


def test_overhead_is_the_time_outside_the_provider() -> None:
    """The provider's time is from its call to its last byte. All other time is the proxy's."""
    in_flight, clock = opened()
    clock.advance(5 * MS)
    in_flight.provider_asked("openai")
    clock.advance(100 * MS)
    in_flight.provider_sent_bytes()
    clock.advance(50 * MS)
    in_flight.provider_sent_bytes()
    in_flight.provider_ended()
    clock.advance(2 * MS)
    in_flight.provider_ended()

    assert in_flight.provider == "openai"
    assert in_flight.timings() == Timings(provider_ttfb_ns=100_000_000, overhead_ns=7_000_000, total_ns=157_000_000)


def test_a_provider_that_was_not_called_has_no_timings() -> None:
    """A request that is refused earlier has no provider time."""
    in_flight, clock = opened()
    clock.advance(MS)
    in_flight.provider_sent_bytes()
    in_flight.provider_ended()

    assert in_flight.timings().provider_ttfb_ns is None
    assert in_flight.provider_ended_ns is None
    assert Stage.PROVIDER not in in_flight.stage_ns


def test_durations_do_not_depend_on_the_wall_clock() -> None:
    """Setting the clock back during a request changes no duration."""
    in_flight, clock = opened()
    in_flight.enter(Stage.RATE_LIMIT)
    clock.advance(MS)
    clock.set(clock.now() - timedelta(hours=1))
    clock.advance(MS)

    assert in_flight.timings().rate_limit_ns == in_flight.timings().total_ns == 2_000_000


def test_the_receipt_of_a_directive_contains_no_text() -> None:
    """It contains id, number and hash of the injected version. It is None without a directive."""
    in_flight, _ = opened()
    assert in_flight.directive_receipt() is None

    in_flight.directive = Directive(UUID(int=2), 4, InjectionMode.SYSTEM_FIRST, "secret", "ab" * 32)

    assert in_flight.directive_receipt() == DirectiveReceipt(UUID(int=2), 4, "ab" * 32)
    assert "secret" not in repr(in_flight)
