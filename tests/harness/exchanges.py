"""Exchanges for tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from ibex.domain.record.exchange import Caller, DirectiveReceipt, Exchange, SessionRef, Timings
from ibex.domain.record.summary import ResponseSummary, Usage

REQUESTED_AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)

_FULL = Exchange(
    id=UUID(int=1),
    request_id=UUID(int=2),
    trace_id="0af7651916cd43dd8448eb211c80319c",
    emitter_id=UUID(int=3),
    emitter_seq=4,
    requested_at=REQUESTED_AT,
    completed_at=REQUESTED_AT + timedelta(milliseconds=1_234),
    timings=Timings(
        auth_ns=1_001_999,
        rate_limit_ns=2_002_000,
        directive_ns=3_003_000,
        inject_ns=4_500,
        provider_ttfb_ns=250_000_000,
        overhead_ns=6_789_000,
        total_ns=1_234_567_890,
    ),
    status=200,
    error_code=None,
    caller=Caller(UUID(int=5), UUID(int=6), UUID(int=7), UUID(int=10)),
    session=SessionRef(UUID(int=8), "conversation-1"),
    model="gpt-4o",
    provider="openai",
    provider_request_id="req_1",
    attempts=2,
    reached_provider=True,
    is_streaming=True,
    is_complete=True,
    messages_hash="a1" * 32,
    summary=ResponseSummary("gpt-4o-2024-08-06", Usage(11, 7, 18, 5, 3), "stop", "b2" * 32),
    directive=DirectiveReceipt(UUID(int=9), 3, "c3" * 32),
    operation="chat.completions",
)


def an_exchange(**changes: Any) -> Exchange:
    """Return a streamed, complete exchange with every field set, with the given changes."""
    return replace(_FULL, **changes)


def a_refusal(**changes: Any) -> Exchange:
    """Return an exchange that was refused as soon as its organization was known."""
    return replace(
        Exchange(
            id=UUID(int=1),
            request_id=UUID(int=2),
            trace_id=_FULL.trace_id,
            emitter_id=UUID(int=3),
            emitter_seq=5,
            requested_at=REQUESTED_AT,
            completed_at=REQUESTED_AT,
            timings=Timings(auth_ns=10_000, total_ns=20_000, overhead_ns=20_000),
            status=403,
            caller=Caller(UUID(int=5), UUID(int=6)),
        ),
        **changes,
    )
