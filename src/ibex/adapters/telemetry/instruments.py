"""Counters, gauges and histograms for the request path: about 0.1 µs for a counter, 0.2 µs for a histogram.

An instrument is a few integers in a shared-memory segment. It is bound to its labels once, when the process starts or
the labels first occur, and only the event loop's thread writes it: no lock and no float arithmetic (ADR 0028).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Counter:
    """A number that only increases."""

    __slots__ = ("_caught_up_to", "_slots")

    def __init__(self, slots: memoryview[int]) -> None:
        self._slots = slots
        self._caught_up_to = 0

    def add(self, number: int = 1) -> None:
        """Increase the counter."""
        self._slots[0] += number

    def catch_up(self, total: int) -> None:
        """Add the increase of another counter, given its total, since the last call."""
        self._slots[0] += total - self._caught_up_to
        self._caught_up_to = total


class Gauge:
    """A number that can go up and down."""

    __slots__ = ("_slots",)

    def __init__(self, slots: memoryview[int]) -> None:
        self._slots = slots
        slots[0] = 0  # the segment may contain the value of a former process

    def set(self, number: int) -> None:
        """Set the value."""
        self._slots[0] = number

    def add(self, number: int) -> None:
        """Change the value by a number, which can be negative."""
        self._slots[0] += number


class Histogram:
    """Durations in nanoseconds: their sum, and their number for each bucket."""

    __slots__ = ("_bounds", "_slots")

    def __init__(self, slots: memoryview[int], bounds: Sequence[int]) -> None:
        """Set the bounds, ascending and in nanoseconds. There are two more slots than bounds: the sum and +Inf."""
        self._slots = slots
        self._bounds = bounds

    def observe(self, duration_ns: int) -> None:
        """Count one duration."""
        slots = self._slots
        slots[0] += duration_ns
        slots[1 + bisect_left(self._bounds, duration_ns)] += 1


T = TypeVar("T", bound="Counter | Gauge | Histogram")


class Labelled(Generic[T]):
    """The instruments of one metric, by label values."""

    __slots__ = ("_bound", "_make")

    def __init__(self, make: Callable[[tuple[str, ...]], T]) -> None:
        self._make = make
        self._bound: dict[tuple[str, ...], T] = {}

    def of(self, *labels: str) -> T:
        """Return the instrument for these label values. Values must come from a bounded set."""
        bound = self._bound.get(labels)
        if bound is None:
            bound = self._bound[labels] = self._make(labels)
        return bound
