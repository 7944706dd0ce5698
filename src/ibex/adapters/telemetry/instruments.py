"""What counts and measures, at a price that the request path can pay: some 0.1 µs for a counter, 0.2 for a histogram.

Each is a few whole numbers in a region. They are bound to their labels once, when the process starts or the labels are
first seen, and belong to the event loop's thread: no lock, no float, no search but a bisection (ADR 0028).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Counter:
    """A number that only grows."""

    __slots__ = ("_caught_up_to", "_slots")

    def __init__(self, slots: memoryview[int]) -> None:
        self._slots = slots
        self._caught_up_to = 0

    def add(self, number: int = 1) -> None:
        """Count so many more."""
        self._slots[0] += number

    def catch_up(self, total: int) -> None:
        """Count what somebody else has counted since this was last called, given all that they have."""
        self._slots[0] += total - self._caught_up_to
        self._caught_up_to = total


class Gauge:
    """A number as it is now."""

    __slots__ = ("_slots",)

    def __init__(self, slots: memoryview[int]) -> None:
        self._slots = slots
        slots[0] = 0  # what a process that is gone has left there is nobody's

    def set(self, number: int) -> None:
        """Replace it."""
        self._slots[0] = number

    def add(self, number: int) -> None:
        """Make it so much more, or less."""
        self._slots[0] += number


class Histogram:
    """Durations in nanoseconds: their sum, and how many there were up to each bound and beyond the last."""

    __slots__ = ("_bounds", "_slots")

    def __init__(self, slots: memoryview[int], bounds: Sequence[int]) -> None:
        """Take the bounds, in nanoseconds and in order; there is a slot for each and two more."""
        self._slots = slots
        self._bounds = bounds

    def observe(self, duration_ns: int) -> None:
        """Count one."""
        slots = self._slots
        slots[0] += duration_ns
        slots[1 + bisect_left(self._bounds, duration_ns)] += 1


T = TypeVar("T", bound="Counter | Gauge | Histogram")


class Labelled(Generic[T]):
    """The instruments of one metric, by the values of its labels."""

    __slots__ = ("_bound", "_make")

    def __init__(self, make: Callable[[tuple[str, ...]], T]) -> None:
        self._make = make
        self._bound: dict[tuple[str, ...], T] = {}

    def of(self, *labels: str) -> T:
        """Return the instrument for these values, which come from a bounded set."""
        bound = self._bound.get(labels)
        if bound is None:
            bound = self._bound[labels] = self._make(labels)
        return bound
