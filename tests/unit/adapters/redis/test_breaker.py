"""When calls may start, by the clock and what came of earlier ones."""

from __future__ import annotations

from ibex.adapters.redis.breaker import FAILURE_THRESHOLD, OPEN_FOR_S, CircuitBreaker

OPEN_FOR_NS = int(OPEN_FOR_S * 1_000_000_000)


def failed(times: int, now_ns: int = 0) -> CircuitBreaker:
    """Return a breaker after so many failures in a row."""
    breaker = CircuitBreaker()
    for _ in range(times):
        breaker.failed(now_ns)
    return breaker


def test_a_few_failures_leave_it_closed() -> None:
    """Any number of calls may be under way."""
    assert failed(FAILURE_THRESHOLD - 1).allows(0, in_flight=1_000)


def test_enough_failures_open_it_for_a_pause() -> None:
    """After that one call at a time may start."""
    breaker = failed(FAILURE_THRESHOLD)
    assert not breaker.allows(OPEN_FOR_NS - 1, in_flight=0)
    assert breaker.allows(OPEN_FOR_NS, in_flight=0)
    assert not breaker.allows(OPEN_FOR_NS, in_flight=1)


def test_a_failure_while_half_open_opens_it_again() -> None:
    """For another pause."""
    breaker = failed(FAILURE_THRESHOLD)
    breaker.failed(OPEN_FOR_NS)
    assert not breaker.allows(2 * OPEN_FOR_NS - 1, in_flight=0)
    assert breaker.allows(2 * OPEN_FOR_NS, in_flight=0)


def test_a_success_closes_it() -> None:
    """Failures are counted from the beginning."""
    breaker = failed(FAILURE_THRESHOLD)
    breaker.succeeded()
    breaker.failed(0)
    assert breaker.allows(0, in_flight=1_000)
