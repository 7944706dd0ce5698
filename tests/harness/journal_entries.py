"""Distinct exchanges for journals."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from harness.exchanges import REQUESTED_AT, an_exchange

if TYPE_CHECKING:
    from datetime import datetime

    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import Sink

_sequence = count(1)


def new_exchange(**changes: Any) -> Exchange:
    """Return a distinct exchange with its own ids, one second later than the previous one."""
    number = next(_sequence)
    requested_at = REQUESTED_AT + timedelta(seconds=number)
    own = {
        "id": uuid4(),
        "request_id": uuid4(),
        "emitter_seq": number,
        "requested_at": requested_at,
        "completed_at": requested_at + timedelta(microseconds=345_678),
    }
    return an_exchange(**{**own, **changes})


@dataclass(slots=True)
class FullJournal:
    """The fill level that a journal reports."""

    depths: dict[Sink, int] = field(default_factory=dict)
    traces_dropped: int = 0
    max_bytes: int = 1_000
    since: dict[Sink, datetime] = field(default_factory=dict)

    def depth(self, sink: Sink) -> int:
        """Return the number of exchanges that wait for a sink."""
        return self.depths.get(sink, 0)

    def pending_since(self, sink: Sink) -> datetime | None:
        """Return the time since which an exchange has waited."""
        return self.since.get(sink)

    def stored_bytes(self) -> int:
        """Return the size of the waiting exchanges in bytes."""
        return 100 * sum(self.depths.values())
