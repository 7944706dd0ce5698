"""What was appended last, kept in memory: sinks that keep up need no reading and no decoding."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.journal.store import Span
    from ibex.domain.record.exchange import Exchange

MOST: Final = 4_000


class RecentExchanges:
    """At most ``MOST`` exchanges with consecutive positions."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque()
        self._first = 1

    def add(self, span: Span, exchanges: Sequence[Exchange]) -> None:
        """Take the exchanges that have these positions; what does not adjoin them is forgotten."""
        if span.first != self._first + len(self._exchanges):
            self._exchanges.clear()
            self._first = span.first
        self._exchanges.extend(exchanges)
        self.forget(span.last - MOST)

    def forget(self, position: int) -> None:
        """Drop what is at this position or before it."""
        while self._exchanges and self._first <= position:
            self._exchanges.popleft()
            self._first += 1

    def get(self, span: Span) -> Sequence[Exchange] | None:
        """Return the exchanges of a span, or None if any of them is not here."""
        start = span.first - self._first
        stop = span.last + 1 - self._first
        if start < 0 or stop > len(self._exchanges):
            return None
        return list(islice(self._exchanges, start, stop))
