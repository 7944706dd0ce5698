"""Looking at what is on record: sessions with their turns, traces with their summary. For operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.sessions import Turn
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from ibex.domain.record.sessions import SessionStatus
    from ibex.domain.record.traces import Trace


MAX_TRACES_PER_REQUEST_ID: Final = 100


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


@value_object
class TurnRecord(Turn):
    """One stored checkpoint, and its place in the session from 0."""

    turn_index: int


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

    Durations are in milliseconds; percentiles are over complete requests, 0 if there are none. ``ttfb`` is the time to
    the provider's first byte.
    """

    model: str
    provider: str
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    ttfb_p50_ms: float
    ttfb_p99_ms: float
    total_p50_ms: float
    total_p90_ms: float
    total_p99_ms: float
    overhead_p50_ms: float
    overhead_p99_ms: float


@dataclass(frozen=True, slots=True)
class TimeSlice:
    """The requests of one slice of a time span."""

    requests: int
    errors: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class EmitterRecord:
    """What one process left behind in a time span: the numbers that it gave, from ``first`` to ``last``.

    ``missing`` is how many numbers between the two have no trace, ``repeated`` how many traces have another one's
    number: both are 0, or something was lost or counted twice. What a process lost after its last trace does not show.
    ``requests`` is the number of requests that the traces stand for: one trace may stand for many refused requests.
    """

    emitter_id: UUID
    first: int
    last: int
    rows: int
    missing: int
    repeated: int
    last_completed_at: datetime
    requests: int


@dataclass(frozen=True, slots=True)
class InsertedTrace:
    """A trace, and when it was inserted by the store's clock."""

    inserted_at: datetime
    trace: Trace


class TraceHistory(Protocol):
    """Port: reads traces, of one organization but where it says so. Methods raise ``sessions.SinkUnavailableError``."""

    async def tail(self, org_id: UUID, limit: int) -> Sequence[Trace]:
        """Return the traces that were requested last, the oldest of them first."""

    async def now(self) -> datetime:
        """Return the time by the clock that ``inserted`` goes by."""

    async def inserted(self, org_id: UUID, since: datetime) -> Sequence[InsertedTrace]:
        """Return all traces that were inserted at ``since`` or later, in the order of their insertion.

        A trace can appear a moment after another one with a later time of insertion: an insert takes time, and each
        server of a cluster has a clock of its own.
        """

    async def find(self, org_id: UUID, request_id: UUID) -> Sequence[Trace]:
        """Return the traces with this request id, the latest first; a client may use one more than once.

        At most ``MAX_TRACES_PER_REQUEST_ID``; empty if no trace matches. The id of a checkpoint finds its trace, too:
        if a client uses a request id again, the later checkpoints are stored under their own id.
        """

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row a model and provider for the span that ends now, most requests first."""

    async def timeline(self, org_id: UUID, span: timedelta, slices: int) -> Sequence[TimeSlice]:
        """Return the span that ends now in so many equal slices, oldest first; one without requests is all zeros."""

    async def slow(self, org_id: UUID, span: timedelta, limit: int) -> Sequence[Trace]:
        """Return the requests of the span that ends now that took longest in all, slowest first."""

    async def emitters(self, span: timedelta) -> Sequence[EmitterRecord]:
        """Return each process that completed an exchange in the span that ends now, the one that did last first.

        Of all organizations together, since a process numbers through all of them. A process that started within the
        span is counted from 1, another from its first number in the span. The span, and a day, must be less than traces
        are kept. What recovery settled counts as a process of its own.
        """
