"""The trace of a request: its row for analytics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from ibex.domain.record.exchange import Exchange
from ibex.domain.value_object import field_copier, value_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

NIL_ID: Final = UUID(int=0)


@value_object
class Trace:
    """One row. Durations are in milliseconds with microsecond resolution. Contains no text of any message.

    ``agent_id``, ``session_id`` and ``checkpoint_id`` are the nil UUID if the request was refused before it had one,
    ``user_id`` if the token has no user, ``token_id`` if the row stands for requests with several tokens. A text
    without a value is empty, because ClickHouse's columns are not nullable (ADR 0007). ``repeated`` is the number of
    requests that the row stands for. Queries that count requests sum it (ADR 0041).
    """

    request_id: UUID
    org_id: UUID
    agent_id: UUID
    session_id: UUID
    checkpoint_id: UUID
    model: str
    provider: str
    is_streaming: bool
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    auth_ms: float
    rate_limit_ms: float
    directive_ms: float
    inject_ms: float
    provider_ttfb_ms: float
    proxy_overhead_ms: float
    total_latency_ms: float
    status_code: int
    is_complete: bool
    error_code: str
    finish_reason: str
    attempts: int
    directive_version_id: UUID
    directive_hash: str
    auth_cache: str
    requested_at: datetime
    completed_at: datetime
    emitter_id: UUID
    emitter_seq: int
    repeated: int
    operation: str
    token_id: UUID
    user_id: UUID


_copied: Final = field_copier(Exchange, Trace, without=("model", "provider", "error_code"))


def trace_of(exchange: Exchange) -> Trace | None:
    """Return the trace of an exchange, or None if its organization is unknown."""
    caller = exchange.caller
    if caller is None:
        return None
    usage, timings, directive = exchange.summary.usage, exchange.timings, exchange.directive
    return Trace(
        **_copied(exchange),
        org_id=caller.org_id,
        agent_id=caller.agent_id or NIL_ID,
        session_id=exchange.session.id if exchange.session else NIL_ID,
        checkpoint_id=exchange.id if exchange.reached_provider and exchange.session is not None else NIL_ID,
        model=exchange.model or "",
        provider=exchange.provider or "",
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        total_tokens=usage.total_tokens or 0,
        cached_tokens=usage.cached_tokens or 0,
        reasoning_tokens=usage.reasoning_tokens or 0,
        auth_ms=_ms(timings.auth_ns),
        rate_limit_ms=_ms(timings.rate_limit_ns),
        directive_ms=_ms(timings.directive_ns),
        inject_ms=_ms(timings.inject_ns),
        provider_ttfb_ms=_ms(timings.provider_ttfb_ns),
        proxy_overhead_ms=_ms(timings.overhead_ns),
        total_latency_ms=_ms(timings.total_ns),
        status_code=exchange.status,
        error_code=exchange.error_code or "",
        finish_reason=exchange.summary.finish_reason or "",
        directive_version_id=directive.version_id if directive else NIL_ID,
        directive_hash=directive.sha256 if directive else "",
        auth_cache="hit" if exchange.auth_cached else "miss",
        token_id=caller.token_id,
        user_id=caller.user_id or NIL_ID,
    )


def _ms(duration_ns: int | None) -> float:
    return (duration_ns or 0) // 1_000 / 1_000


class TraceSink(Protocol):
    """Port: the store of traces."""

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch. Idempotent: the same batch with the same token is stored once.

        Raises ``sessions.SinkUnavailableError`` if it cannot be done now; retry with the same batch and token. Raises
        ``sessions.SinkRefusedError`` if it will never accept one of the rows; then none of the batch is stored.
        """
