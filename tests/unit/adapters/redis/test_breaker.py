"""Tests of the circuit breaker, which allows calls by the clock and the outcome of earlier calls."""

from __future__ import annotations

from ibex.adapters.redis.breaker import FAILURE_THRESHOLD, OPEN_FOR_S, CircuitBreaker

OPEN_FOR_NS = int(OPEN_FOR_S * 1_000_000_000)


def failed(times: int, now_ns: int = 0) -> CircuitBreaker:
    """Return a breaker after this many failures in a row."""
    breaker = CircuitBreaker()
    for _ in range(times):
        breaker.failed(now_ns)
    return breaker


def test_the_breaker_stays_closed_below_the_failure_threshold() -> None:
    """A closed breaker allows any number of concurrent calls."""
    assert failed(FAILURE_THRESHOLD - 1).allows(0, in_flight=1_000)


def test_failures_at_the_threshold_open_the_breaker_for_a_pause() -> None:
    """After the pause it allows one call at a time."""
    breaker = failed(FAILURE_THRESHOLD)
    assert not breaker.allows(OPEN_FOR_NS - 1, in_flight=0)
    assert breaker.allows(OPEN_FOR_NS, in_flight=0)
    assert not breaker.allows(OPEN_FOR_NS, in_flight=1)


def test_a_failure_while_half_open_opens_the_breaker_again() -> None:
    """It then stays open for another pause."""
    breaker = failed(FAILURE_THRESHOLD)
    breaker.failed(OPEN_FOR_NS)
    assert not breaker.allows(2 * OPEN_FOR_NS - 1, in_flight=0)
    assert breaker.allows(2 * OPEN_FOR_NS, in_flight=0)


def test_a_success_closes_the_breaker() -> None:
    """The count of failures starts again."""
    breaker = failed(FAILURE_THRESHOLD)
    breaker.succeeded()
    breaker.failed(0)
    assert breaker.allows(0, in_flight=1_000)
