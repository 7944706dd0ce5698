"""Tests of counters, gauges and histograms."""

from __future__ import annotations

import pytest

from ibex.adapters.telemetry.instruments import Counter, Gauge, Histogram, Labelled


def slots(size: int) -> memoryview[int]:
    """Return slots of zeros."""
    return memoryview(bytearray(8 * size)).cast("q")


def test_a_counter_continues_from_the_value_in_its_slot() -> None:
    """An earlier process may have counted in the same slot."""
    own = slots(1)
    own[0] = 5
    counter = Counter(own)
    counter.add()
    counter.add(3)

    assert own[0] == 9


def test_catching_up_adds_the_increase_of_another_counter() -> None:
    """The value of an earlier process is kept, because the other total begins at zero."""
    own = slots(1)
    own[0] = 5
    counter = Counter(own)
    for total in (2, 2, 7):
        counter.catch_up(total)

    assert own[0] == 12


def test_a_gauge_begins_at_zero_and_keeps_the_last_value() -> None:
    """The gauge discards the value of an earlier process."""
    own = slots(1)
    own[0] = 5
    gauge = Gauge(own)
    assert own[0] == 0

    gauge.set(7)
    gauge.set(6)
    gauge.add(-2)
    assert own[0] == 4


@pytest.mark.parametrize(("duration", "bucket"), [(0, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1 << 40, 3)])
def test_a_duration_is_counted_in_the_first_bucket_that_holds_it(duration: int, bucket: int) -> None:
    """A bound belongs to its bucket, as in Prometheus. Longer durations are in the last bucket."""
    own = slots(4)
    Histogram(own, (10, 20)).observe(duration)

    assert own[0] == duration
    assert [n for n in range(1, 4) if own[n]] == [bucket]


def test_the_same_label_values_return_the_same_instrument() -> None:
    """The order of the values matters."""
    made: list[tuple[str, ...]] = []

    def make(values: tuple[str, ...]) -> Counter:
        made.append(values)
        return Counter(slots(1))

    labelled = Labelled(make)

    assert labelled.of("a", "b") is labelled.of("a", "b")
    assert labelled.of("b", "a") is not labelled.of("a", "b")
    assert made == [("a", "b"), ("b", "a")]
