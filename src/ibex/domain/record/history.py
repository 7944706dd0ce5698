"""Read models of the record, for operators: sessions with their turns, traces with their summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.sessions import Turn
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from ibex.domain.record.sessions import SessionStatus
    from ibex.domain.record.traces import Trace


MAX_TRACES_PER_REQUEST_ID: Final = 100


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session with the totals of its turns; ``total_latency_ms`` is in milliseconds."""

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
    """A stored checkpoint with its index in the session, counted from 0."""

    turn_index: int


class SessionHistory(Protocol):
    """Port: reads the sessions of one organization. Methods raise ``errors.ServiceDegradedError`` in an outage."""

    async def sessions(self, org_id: UUID, limit: int) -> Sequence[SessionRecord]:
        """Return the most recently used sessions, latest first."""

    async def find(self, org_id: UUID, session: str) -> SessionRecord | None:
        """Return the session with this id, or the latest with this handle. Return None if neither exists."""

    async def handles(self, org_id: UUID, session_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Return the handles of these sessions by id, without those that do not exist."""

    async def turns(self, org_id: UUID, session_id: UUID) -> Sequence[TurnRecord]:
        """Return the turns of a session in order; empty if there is no such session."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The requests for one model of one provider in a time span.

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
    """The traces of one process in a time span, with sequence numbers from ``first`` to ``last``.

    ``missing`` is the number of sequence numbers in between that have no trace. ``repeated`` is the number of traces
    whose sequence number another trace has. Both are 0 unless traces were lost or stored twice. Traces lost after the
    last one do not show. ``requests`` is the number of requests that the traces stand for: one trace can stand for many
    refused requests.
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
    """A trace and the time of its insertion by the store's clock."""

    inserted_at: datetime
    trace: Trace


class TraceHistory(Protocol):
    """Port: reads the traces of one organization. Methods raise ``sessions.SinkUnavailableError`` in an outage."""

    async def tail(self, org_id: UUID, limit: int) -> Sequence[Trace]:
        """Return the traces of the latest requests, oldest first."""

    async def now(self) -> datetime:
        """Return the time by the store's clock, which ``inserted`` uses."""

    async def inserted(self, org_id: UUID, since: datetime) -> Sequence[InsertedTrace]:
        """Return all traces that were inserted at ``since`` or later, in the order of their insertion.

        A trace can become visible shortly after another one with a later time of insertion: an insert takes time, and
        each server of a cluster has its own clock.
        """

    async def find(self, org_id: UUID, request_id: UUID) -> Sequence[Trace]:
        """Return the traces with this request id, latest first: a client can use the same id for several requests.

        At most ``MAX_TRACES_PER_REQUEST_ID``; empty if no trace matches. The id of a checkpoint finds its trace as
        well: if a client reuses a request id, the later checkpoints are stored under their own id.
        """

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row per model and provider for the span that ends now, most requests first."""

    async def timeline(self, org_id: UUID, span: timedelta, slices: int) -> Sequence[TimeSlice]:
        """Divide the span that ends now into equal slices, oldest first. A slice without requests is all zeros."""

    async def slow(self, org_id: UUID, span: timedelta, limit: int) -> Sequence[Trace]:
        """Return the requests with the longest total time in the span that ends now, slowest first."""

    async def emitters(self, span: timedelta) -> Sequence[EmitterRecord]:
        """Return each process that completed an exchange in the span that ends now, the latest first.

        Covers all organizations together, since a process has one sequence of numbers for all of them. A process that
        started within the span is counted from 1, any other from its first number in the span. The span plus one day
        must be shorter than the retention of traces. Each recovery of a journal counts as a process of its own.
        """
