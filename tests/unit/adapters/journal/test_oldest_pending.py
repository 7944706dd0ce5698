"""Since when what waits has waited."""

from __future__ import annotations

from datetime import timedelta

from harness.exchanges import REQUESTED_AT
from ibex.adapters.journal.oldest_pending import MOST, OldestPending


def at(seconds: float) -> timedelta:
    """Return what is to be added to a time."""
    return timedelta(seconds=seconds)


def test_an_exchange_has_waited_since_it_came_or_a_moment_longer() -> None:
    """Those of a tenth of a second count as old as the first of them."""
    ages = OldestPending()
    for position in range(1, 41):
        ages.add(position, REQUESTED_AT + at(position * 0.05))

    assert ages.at(1) == ages.at(2) == REQUESTED_AT + at(0.05)
    assert ages.at(40) == REQUESTED_AT + at(39 * 0.05)
    assert ages.at(0) is None


def test_what_is_gone_is_forgotten_and_what_waits_is_not() -> None:
    """The mark before the first that waits is the one that tells of it."""
    ages = OldestPending()
    for position in (10, 20, 30):
        ages.add(position, REQUESTED_AT + at(position))
    ages.forget(24)

    assert ages.at(15) is None
    assert ages.at(25) == REQUESTED_AT + at(20)
    ages.forget(1_000)
    assert ages.at(1_001) == REQUESTED_AT + at(30)


def test_a_queue_of_days_takes_no_more_memory() -> None:
    """It is told more coarsely, never younger than it is; afterwards as finely as before."""
    ages = OldestPending()
    for position in range(1, 50_001):
        ages.add(position, REQUESTED_AT + at(position))

    assert len(ages._marks) <= MOST  # noqa: SLF001 - the bound is what is promised
    for position in (1, 777, 25_000, 50_000):
        since = ages.at(position)
        assert since is not None
        assert at(0) <= REQUESTED_AT + at(position) - since <= at(50_000 * 4 / MOST)
    ages.forget(60_000)
    ages.add(60_001, REQUESTED_AT + at(60_001))
    ages.add(60_002, REQUESTED_AT + at(60_001.2))
    assert ages.at(60_002) == REQUESTED_AT + at(60_001.2)
