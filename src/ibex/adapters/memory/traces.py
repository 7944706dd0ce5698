"""Traces in a list."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from ibex.domain.records import ModelSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.traces import Trace


class InMemoryTraces:
    """A ``TraceSink`` and a ``TraceHistory`` of this process; gone with it. A batch's token is remembered for ever."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._traces: list[Trace] = []
        self._tokens: set[str] = set()

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch once, however often it comes."""
        if batch_token not in self._tokens:
            self._tokens.add(batch_token)
            self._traces.extend(traces)

    async def tail(self, org_id: UUID, limit: int, after: datetime | None = None) -> Sequence[Trace]:
        """Return the latest traces, oldest of them first; with ``after``, only what was requested later."""
        own = [t for t in self._traces if t.org_id == org_id and (after is None or t.requested_at > after)]
        return sorted(own, key=attrgetter("requested_at", "emitter_seq"))[-limit:] if limit else []

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row a model and provider for the span that ends now, most requests first."""
        since = self._clock.now() - span
        own = [t for t in self._traces if t.org_id == org_id and t.requested_at >= since]
        key = attrgetter("model", "provider")
        rows = [_summary(*names, list(members)) for names, members in groupby(sorted(own, key=key), key)]
        return sorted(rows, key=lambda row: -row.requests)


def _summary(model: str, provider: str, traces: list[Trace]) -> ModelSummary:
    complete = [trace for trace in traces if trace.is_complete]
    return ModelSummary(
        model=model,
        provider=provider,
        requests=len(traces),
        errors=sum(1 for trace in traces if trace.error_code),
        input_tokens=sum(trace.input_tokens for trace in traces),
        output_tokens=sum(trace.output_tokens for trace in traces),
        ttfb_p50_ms=_percentile(0.5, (trace.provider_ttfb_ms for trace in complete)),
        total_p50_ms=_percentile(0.5, (trace.total_latency_ms for trace in complete)),
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
