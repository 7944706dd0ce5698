"""Tests of the buffer of the most recently appended exchanges."""

from __future__ import annotations

from harness.journal_entries import new_exchange
from ibex.adapters.journal.recent import MAX_EXCHANGES, RecentExchanges
from ibex.adapters.journal.store import Span


def test_a_span_in_the_buffer_is_returned() -> None:
    """A span can cover exchanges of several calls of ``add``."""
    recent = RecentExchanges()
    exchanges = [new_exchange() for _ in range(5)]
    recent.add(Span(1, 2), exchanges[:2])
    recent.add(Span(3, 5), exchanges[2:])
    assert recent.get(Span(2, 4)) == exchanges[1:4]


def test_a_span_that_is_partly_missing_is_not_returned() -> None:
    """The missing part can be its beginning or its end."""
    recent = RecentExchanges()
    recent.add(Span(11, 12), [new_exchange(), new_exchange()])
    assert recent.get(Span(10, 11)) is None
    assert recent.get(Span(12, 13)) is None
    assert recent.get(Span(11, 12)) is not None


def test_a_gap_clears_the_buffer() -> None:
    """Positions stay correct after exchanges that were never added."""
    recent = RecentExchanges()
    recent.add(Span(1, 1), [new_exchange()])
    late = new_exchange()
    recent.add(Span(5, 5), [late])
    assert recent.get(Span(5, 5)) == [late]
    assert recent.get(Span(1, 1)) is None


def test_discarded_exchanges_are_not_returned() -> None:
    """Discarding beyond the last position empties the buffer, which accepts later exchanges."""
    recent = RecentExchanges()
    exchanges = [new_exchange() for _ in range(3)]
    recent.add(Span(1, 3), exchanges)
    recent.discard_through(2)
    assert recent.get(Span(2, 3)) is None
    assert recent.get(Span(3, 3)) == exchanges[2:]
    recent.discard_through(10)
    assert recent.get(Span(3, 3)) is None
    later = new_exchange()
    recent.add(Span(4, 4), [later])
    assert recent.get(Span(4, 4)) == [later]


def test_the_buffer_is_bounded() -> None:
    """The oldest exchanges are dropped first."""
    recent = RecentExchanges()
    exchange = new_exchange()
    recent.add(Span(1, MAX_EXCHANGES + 1), [exchange] * (MAX_EXCHANGES + 1))
    assert recent.get(Span(1, 1)) is None
    assert recent.get(Span(2, MAX_EXCHANGES + 1)) == [exchange] * MAX_EXCHANGES
