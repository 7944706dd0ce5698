"""The request that the running task works for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.record.exchange import Exchange


@dataclass(slots=True)
class CurrentRequest:
    """Its ids, its client's span (``<span id>-<flags>``), and the exchange that it left once that is settled."""

    request_id: UUID
    trace_id: str
    parent: str | None = None
    exchange: Exchange | None = None


CURRENT: Final[ContextVar[CurrentRequest | None]] = ContextVar("ibex_current_request", default=None)
