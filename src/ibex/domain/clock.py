"""Port: the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


class Clock(Protocol):
    """Port: the current time. Never blocks, never raises."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC and with its time zone set."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary moment. Never goes back, so durations are measured with it."""
