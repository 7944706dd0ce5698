"""Tests of the age of the oldest pending exchange."""

from __future__ import annotations

from datetime import timedelta

from harness.exchanges import REQUESTED_AT
from ibex.adapters.journal.oldest_pending import MAX_SAMPLES, OldestPending


def at(seconds: float) -> timedelta:
    """Return an offset from the first time."""
    return timedelta(seconds=seconds)


def test_an_age_is_exact_to_a_tenth_of_a_second() -> None:
    """Exchanges of the same tenth of a second count as old as the first of them."""
    oldest = OldestPending()
    for position in range(1, 41):
        oldest.add(position, REQUESTED_AT + at(position * 0.05))

    assert oldest.at(1) == oldest.at(2) == REQUESTED_AT + at(0.05)
    assert oldest.at(40) == REQUESTED_AT + at(39 * 0.05)
    assert oldest.at(0) is None


def test_only_samples_of_delivered_exchanges_are_discarded() -> None:
    """The last sample before the first pending exchange is kept."""
    oldest = OldestPending()
    for position in (10, 20, 30):
        oldest.add(position, REQUESTED_AT + at(position))
    oldest.discard_through(24)

    assert oldest.at(15) is None
    assert oldest.at(25) == REQUESTED_AT + at(20)
    oldest.discard_through(1_000)
    assert oldest.at(1_001) == REQUESTED_AT + at(30)


def test_the_number_of_samples_is_bounded() -> None:
    """A long queue gets coarser, but never younger, ages. An empty one restores the resolution."""
    oldest = OldestPending()
    for position in range(1, 50_001):
        oldest.add(position, REQUESTED_AT + at(position))

    assert len(oldest._samples) <= MAX_SAMPLES  # noqa: SLF001 - the bound is what is promised
    for position in (1, 777, 25_000, 50_000):
        since = oldest.at(position)
        assert since is not None
        assert at(0) <= REQUESTED_AT + at(position) - since <= at(50_000 * 4 / MAX_SAMPLES)
    oldest.discard_through(60_000)
    oldest.add(60_001, REQUESTED_AT + at(60_001))
    oldest.add(60_002, REQUESTED_AT + at(60_001.2))
    assert oldest.at(60_002) == REQUESTED_AT + at(60_001.2)
