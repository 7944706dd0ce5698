"""Traces in a list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from ibex.domain.record.history import MAX_TRACES_PER_REQUEST_ID, EmitterRecord, InsertedTrace, ModelSummary, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.record.traces import Trace


class InMemoryTraces:
    """An in-memory ``TraceSink`` and ``TraceHistory``. It remembers the token of every batch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._traces: list[Trace] = []
        self._inserted: list[InsertedTrace] = []
        self._tokens: set[str] = set()

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch once, even if it is written again."""
        if batch_token not in self._tokens:
            self._tokens.add(batch_token)
            self._traces.extend(traces)
            now = self._clock.now()
            self._inserted.extend(InsertedTrace(now, trace) for trace in traces)

    async def tail(self, org_id: UUID, limit: int) -> Sequence[Trace]:
        """Return the traces of the latest requests, oldest first."""
        own = [t for t in self._traces if t.org_id == org_id]
        return sorted(own, key=attrgetter("requested_at", "emitter_seq"))[-limit:] if limit else []

    async def now(self) -> datetime:
        """Return the clock's time."""
        return self._clock.now()

    async def inserted(self, org_id: UUID, since: datetime) -> Sequence[InsertedTrace]:
        """Return all traces that were inserted at ``since`` or later; see ``TraceHistory``."""
        own = [one for one in self._inserted if one.trace.org_id == org_id and one.inserted_at >= since]
        return sorted(own, key=lambda one: (one.inserted_at, one.trace.requested_at))

    async def find(self, org_id: UUID, request_id: UUID) -> Sequence[Trace]:
        """Return the traces with this request id, the latest first; see ``TraceHistory``."""
        own = [t for t in self._traces if t.org_id == org_id and request_id in (t.request_id, t.checkpoint_id)]
        return sorted(own, key=attrgetter("requested_at", "emitter_seq"), reverse=True)[:MAX_TRACES_PER_REQUEST_ID]

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row per model and provider for the span that ends now, most requests first."""
        own = self._in_span(org_id, span)
        key = attrgetter("model", "provider")
        rows = [_summary(*names, list(members)) for names, members in groupby(sorted(own, key=key), key)]
        return sorted(rows, key=lambda row: -row.requests)

    async def timeline(self, org_id: UUID, span: timedelta, slices: int) -> Sequence[TimeSlice]:
        """Return the span that ends now in equal slices, oldest first."""
        now, found = self._clock.now(), self._in_span(org_id, span)
        members: list[list[Trace]] = [[] for _ in range(slices)]
        for trace in found:
            members[-1 - min((now - trace.requested_at) * slices // span, slices - 1)].append(trace)
        return [_slice(traces) for traces in members]

    async def slow(self, org_id: UUID, span: timedelta, limit: int) -> Sequence[Trace]:
        """Return the slowest requests of the span that ends now, slowest first."""
        order = attrgetter("total_latency_ms", "requested_at", "emitter_seq")
        return sorted(self._in_span(org_id, span), key=order, reverse=True)[:limit]

    async def emitters(self, span: timedelta) -> Sequence[EmitterRecord]:
        """Return the figures of each emitter in the span that ends now; see ``TraceHistory``."""
        since, key = self._clock.now() - span, attrgetter("emitter_id")
        found = [
            _emitter(emitter_id, list(members), since)
            for emitter_id, members in groupby(sorted(self._traces, key=key), key)
        ]
        return sorted((one for one in found if one), key=lambda one: one.last_completed_at, reverse=True)

    def _in_span(self, org_id: UUID, span: timedelta) -> list[Trace]:
        now = self._clock.now()
        return [t for t in self._traces if t.org_id == org_id and now - span <= t.requested_at]


def _slice(traces: list[Trace]) -> TimeSlice:
    return TimeSlice(
        requests=sum(trace.repeated for trace in traces),
        errors=sum(trace.repeated for trace in traces if trace.error_code),
        input_tokens=sum(trace.input_tokens for trace in traces),
        output_tokens=sum(trace.output_tokens for trace in traces),
    )


def _emitter(emitter_id: UUID, traces: list[Trace], since: datetime) -> EmitterRecord | None:
    in_span = [trace.emitter_seq for trace in traces if trace.completed_at >= since]
    if not in_span:
        return None
    first = 1 if _started_at(emitter_id) >= since else min(in_span)
    counted = [trace for trace in traces if trace.emitter_seq >= first]
    numbers = {trace.emitter_seq for trace in counted}
    return EmitterRecord(
        emitter_id=emitter_id,
        first=first,
        last=max(numbers),
        rows=len(counted),
        missing=max(numbers) - first + 1 - len(numbers),
        repeated=len(counted) - len(numbers),
        last_completed_at=max(trace.completed_at for trace in counted),
        requests=sum(trace.repeated for trace in counted),
    )


def _started_at(emitter_id: UUID) -> datetime:
    """Return the time in a UUIDv7."""
    return datetime.fromtimestamp((emitter_id.int >> 80) / 1_000, UTC)


def _summary(model: str, provider: str, traces: list[Trace]) -> ModelSummary:
    complete = [trace for trace in traces if trace.is_complete]
    return ModelSummary(
        model=model,
        provider=provider,
        requests=sum(trace.repeated for trace in traces),
        errors=sum(trace.repeated for trace in traces if trace.error_code),
        input_tokens=sum(trace.input_tokens for trace in traces),
        output_tokens=sum(trace.output_tokens for trace in traces),
        ttfb_p50_ms=_percentile(0.5, (trace.provider_ttfb_ms for trace in complete)),
        ttfb_p99_ms=_percentile(0.99, (trace.provider_ttfb_ms for trace in complete)),
        total_p50_ms=_percentile(0.5, (trace.total_latency_ms for trace in complete)),
        total_p90_ms=_percentile(0.9, (trace.total_latency_ms for trace in complete)),
        total_p99_ms=_percentile(0.99, (trace.total_latency_ms for trace in complete)),
        overhead_p50_ms=_percentile(0.5, (trace.proxy_overhead_ms for trace in complete)),
        overhead_p99_ms=_percentile(0.99, (trace.proxy_overhead_ms for trace in complete)),
    )


def _percentile(level: float, values: Iterable[float]) -> float:
    """Interpolate between the two values next to the level, as ClickHouse's ``quantile`` does; 0 without values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
