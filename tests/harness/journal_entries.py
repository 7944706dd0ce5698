"""Exchanges that differ, for journals to keep."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from harness.exchanges import REQUESTED_AT, an_exchange

if TYPE_CHECKING:
    from ibex.domain.exchange import Exchange

_sequence = count(1)


def new_exchange(**changes: Any) -> Exchange:
    """Return an exchange that is like no other: ids of its own, a second after the one before."""
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
