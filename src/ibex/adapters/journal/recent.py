"""The exchanges that were appended last, in memory, so that a sink that keeps up needs no read from disk."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.journal.store import Span
    from ibex.domain.record.exchange import Exchange

MAX_EXCHANGES: Final = 4_000


class RecentExchanges:
    """A buffer of at most ``MAX_EXCHANGES`` exchanges with consecutive positions."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque()
        self._first = 1

    def add(self, span: Span, exchanges: Sequence[Exchange]) -> None:
        """Add the exchanges at these positions. Discard the former content if it does not end just before them."""
        if span.first != self._first + len(self._exchanges):
            self._exchanges.clear()
            self._first = span.first
        self._exchanges.extend(exchanges)
        self.discard_through(span.last - MAX_EXCHANGES)

    def discard_through(self, position: int) -> None:
        """Discard every exchange up to and including this position."""
        while self._exchanges and self._first <= position:
            self._exchanges.popleft()
            self._first += 1

    def get(self, span: Span) -> Sequence[Exchange] | None:
        """Return the exchanges of a span, None unless all of them are in the buffer."""
        start = span.first - self._first
        stop = span.last + 1 - self._first
        if start < 0 or stop > len(self._exchanges):
            return None
        return list(islice(self._exchanges, start, stop))
