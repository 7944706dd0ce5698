"""A circuit breaker: it stops calls to a server for a moment after a few failures in a row."""

from __future__ import annotations

from typing import Final

FAILURE_THRESHOLD: Final = 3
OPEN_FOR_S: Final = 1.0
_NS: Final = 1_000_000_000


class CircuitBreaker:
    """Opens after ``FAILURE_THRESHOLD`` failures in a row. After ``OPEN_FOR_S`` it is half open until a call succeeds.

    While it is open it allows no call; half open, it allows one call at a time.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._open_until_ns = 0
        self.is_closed = True
        """Whether calls are unrestricted."""

    def allows(self, now_ns: int, in_flight: int) -> bool:
        """Return whether a call may start now. ``now_ns`` is monotonic, in nanoseconds."""
        return self.is_closed or (now_ns >= self._open_until_ns and not in_flight)

    def succeeded(self) -> None:
        """Record a successful call: close the breaker."""
        self._failures, self.is_closed = 0, True

    def failed(self, now_ns: int) -> None:
        """Count a failed call. Open the breaker at the threshold, and again if it is half open."""
        self._failures += 1
        self.is_closed = self._failures < FAILURE_THRESHOLD
        self._open_until_ns = now_ns + int(OPEN_FOR_S * _NS)
