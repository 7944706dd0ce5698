"""What counts and measures."""

from __future__ import annotations

import pytest

from ibex.adapters.telemetry.instruments import Counter, Gauge, Histogram, Labelled


def slots(size: int) -> memoryview[int]:
    """Return slots of zeros."""
    return memoryview(bytearray(8 * size)).cast("q")


def test_a_counter_grows_from_what_was_counted_before() -> None:
    """It may have had another process."""
    own = slots(1)
    own[0] = 5
    counter = Counter(own)
    counter.add()
    counter.add(3)

    assert own[0] == 9


def test_a_counter_catches_up_with_who_counts_elsewhere() -> None:
    """What was counted by a process before is kept: this one's total begins at zero."""
    own = slots(1)
    own[0] = 5
    counter = Counter(own)
    for total in (2, 2, 7):
        counter.catch_up(total)

    assert own[0] == 12


def test_a_gauge_begins_at_zero_and_is_what_was_set_last() -> None:
    """What another process has left is nobody's."""
    own = slots(1)
    own[0] = 5
    gauge = Gauge(own)
    assert own[0] == 0

    gauge.set(7)
    gauge.set(6)
    gauge.add(-2)
    assert own[0] == 4


@pytest.mark.parametrize(("duration", "bucket"), [(0, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1 << 40, 3)])
def test_a_duration_is_counted_once_in_the_first_bucket_that_holds_it(duration: int, bucket: int) -> None:
    """A bound belongs to its bucket, as Prometheus has it; beyond the last bound there is one more."""
    own = slots(4)
    Histogram(own, (10, 20)).observe(duration)

    assert own[0] == duration
    assert [n for n in range(1, 4) if own[n]] == [bucket]


def test_labels_are_bound_once() -> None:
    """The same values give the same instrument."""
    made: list[tuple[str, ...]] = []

    def make(values: tuple[str, ...]) -> Counter:
        made.append(values)
        return Counter(slots(1))

    labelled = Labelled(make)

    assert labelled.of("a", "b") is labelled.of("a", "b")
    assert labelled.of("b", "a") is not labelled.of("a", "b")
    assert made == [("a", "b"), ("b", "a")]
