"""Looking at what is on record: sessions with their turns, traces with their summary. For operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from ibex.domain.sessions import SessionStatus
    from ibex.domain.traces import Trace


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session with its totals; ``total_latency_ms`` is in milliseconds."""

    id: UUID
    handle: str
    agent_id: UUID
    status: SessionStatus
    model: str
    provider: str
    turn_count: int
    total_input_tokens: int
    total_output_tokens: int
    total_latency_ms: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One stored checkpoint; ``latency_ms`` is in milliseconds, token counts are None where unknown."""

    id: UUID
    turn_index: int
    request_id: UUID
    messages_hash: str
    completion_hash: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str
    provider: str
    latency_ms: int
    provider_request_id: str | None
    is_streaming: bool
    is_complete: bool
    created_at: datetime


class SessionHistory(Protocol):
    """Port: reads sessions of one organization. Methods raise ``errors.ServiceDegradedError`` while they cannot."""

    async def sessions(self, org_id: UUID, limit: int) -> Sequence[SessionRecord]:
        """Return the most recently used sessions, latest first."""

    async def find(self, org_id: UUID, session: str) -> SessionRecord | None:
        """Return the session with this id, or the latest with this handle; None if there is none."""

    async def turns(self, org_id: UUID, session_id: UUID) -> Sequence[TurnRecord]:
        """Return the turns of a session in their order; empty if there is no such session."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model's requests in a time span.

    Durations are in milliseconds; percentiles are over complete requests, 0 if there are none.
    """

    model: str
    provider: str
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    ttfb_p50_ms: float
    total_p50_ms: float
    total_p99_ms: float
    overhead_p50_ms: float
    overhead_p99_ms: float


class TraceHistory(Protocol):
    """Port: reads traces of one organization. Methods raise ``sessions.SinkUnavailableError``."""

    async def tail(self, org_id: UUID, limit: int, after: datetime | None = None) -> Sequence[Trace]:
        """Return the latest traces, oldest of them first; with ``after``, only what was requested later."""

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row a model and provider for the span that ends now, most requests first."""
