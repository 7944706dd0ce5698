"""When calls may start, by the clock and what came of earlier ones."""

from __future__ import annotations

from ibex.adapters.redis.breaker import FAILURES_IN_A_ROW, PAUSE_S, CircuitBreaker

PAUSE_NS = int(PAUSE_S * 1_000_000_000)


def failed(times: int, now_ns: int = 0) -> CircuitBreaker:
    """Return a breaker after so many failures in a row."""
    breaker = CircuitBreaker()
    for _ in range(times):
        breaker.failed(now_ns)
    return breaker


def test_a_few_failures_leave_it_closed() -> None:
    """Any number of calls may be under way."""
    assert failed(FAILURES_IN_A_ROW - 1).allows(0, calls_under_way=1_000)


def test_enough_failures_open_it_for_a_pause() -> None:
    """After that one call at a time may start."""
    breaker = failed(FAILURES_IN_A_ROW)
    assert not breaker.allows(PAUSE_NS - 1, calls_under_way=0)
    assert breaker.allows(PAUSE_NS, calls_under_way=0)
    assert not breaker.allows(PAUSE_NS, calls_under_way=1)


def test_a_failure_while_half_open_opens_it_again() -> None:
    """For another pause."""
    breaker = failed(FAILURES_IN_A_ROW)
    breaker.failed(PAUSE_NS)
    assert not breaker.allows(2 * PAUSE_NS - 1, calls_under_way=0)
    assert breaker.allows(2 * PAUSE_NS, calls_under_way=0)


def test_a_success_closes_it() -> None:
    """Failures are counted from the beginning."""
    breaker = failed(FAILURES_IN_A_ROW)
    breaker.succeeded()
    breaker.failed(0)
    assert breaker.allows(0, calls_under_way=1_000)
