"""The request that the current task serves."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.record.exchange import Exchange


@dataclass(slots=True)
class CurrentRequest:
    """The ids of a request, the client's span (``<span id>-<flags>``), and the exchange once it is recorded.

    ``is_sampled`` is whether its spans are exported; None until that is decided.
    """

    request_id: UUID
    trace_id: str
    parent: str | None = None
    exchange: Exchange | None = None
    is_sampled: bool | None = None


CURRENT: Final[ContextVar[CurrentRequest | None]] = ContextVar("ibex_current_request", default=None)
