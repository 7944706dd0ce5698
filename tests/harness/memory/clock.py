"""A clock that advances only when a test advances it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class ManualClock:
    """A ``Clock`` whose two times are set by hand: together or, as when a machine's clock is set, separately."""

    def __init__(self, now: datetime = _START) -> None:
        """Take the wall-clock time to start from; raise ``ValueError`` if it has no time zone."""
        self._monotonic_ns = 0
        self.set(now)

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return self._now

    def monotonic_ns(self) -> int:
        """Return the nanoseconds by which the clock was advanced since it was made."""
        return self._monotonic_ns

    def advance(self, duration: timedelta) -> None:
        """Advance both times; raises ``ValueError`` for a negative duration."""
        microseconds = (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds
        if microseconds < 0:
            raise ValueError("time only goes forward; a wall clock can be set back")
        self._now += duration
        self._monotonic_ns += microseconds * 1_000

    def set(self, now: datetime) -> None:
        """Set the wall clock, forward or back; monotonic time stays. Raises ``ValueError`` without a time zone."""
        if now.tzinfo is None:
            raise ValueError("a clock's time has a time zone")
        self._now = now.astimezone(UTC)
