"""A circuit breaker: after a few failures in a row a server is left alone for a moment."""

from __future__ import annotations

from typing import Final

FAILURES_IN_A_ROW: Final = 3
PAUSE_S: Final = 1.0
_NS: Final = 1_000_000_000


class CircuitBreaker:
    """Closed until ``FAILURES_IN_A_ROW``, then open for ``PAUSE_S``, then half open until a call succeeds."""

    def __init__(self) -> None:
        self._failures = 0
        self._open_until_ns = 0
        self.is_closed = True
        """Whether calls are unrestricted."""

    def allows(self, now_ns: int, calls_under_way: int) -> bool:
        """Tell whether one more call may start now; a half-open breaker allows one at a time."""
        return self.is_closed or (now_ns >= self._open_until_ns and not calls_under_way)

    def succeeded(self) -> None:
        """Close the breaker."""
        self._failures, self.is_closed = 0, True

    def failed(self, now_ns: int) -> None:
        """Count a failure; open the breaker when there are enough of them."""
        self._failures += 1
        self.is_closed = self._failures < FAILURES_IN_A_ROW
        self._open_until_ns = now_ns + int(PAUSE_S * _NS)
