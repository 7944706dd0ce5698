"""The trace of an exchange."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from harness.exchanges import REQUESTED_AT, a_refusal, an_exchange
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Timings
from ibex.domain.record.traces import NIL_ID, Trace, trace_of


def test_every_column_of_a_trace_comes_from_the_exchange() -> None:
    """Durations are milliseconds, truncated to microseconds."""
    exchange = an_exchange()

    assert trace_of(exchange) == Trace(
        request_id=UUID(int=2),
        org_id=UUID(int=5),
        agent_id=UUID(int=7),
        session_id=UUID(int=8),
        checkpoint_id=UUID(int=1),
        model="gpt-4o",
        provider="openai",
        is_streaming=True,
        input_tokens=11,
        output_tokens=7,
        total_tokens=18,
        cached_tokens=5,
        reasoning_tokens=3,
        auth_ms=1.001,
        rate_limit_ms=2.002,
        directive_ms=3.003,
        inject_ms=0.004,
        provider_ttfb_ms=250.0,
        proxy_overhead_ms=6.789,
        total_latency_ms=1234.567,
        status_code=200,
        is_complete=True,
        error_code="",
        finish_reason="stop",
        attempts=2,
        directive_version_id=UUID(int=9),
        directive_hash="c3" * 32,
        auth_cache="miss",
        requested_at=REQUESTED_AT,
        completed_at=exchange.completed_at,
        emitter_id=UUID(int=3),
        emitter_seq=4,
        repeated=1,
        operation="chat.completions",
        token_id=UUID(int=6),
        user_id=UUID(int=10),
    )


def test_a_refusal_is_traced_with_empty_values() -> None:
    """Columns are not nullable: missing values are nil ids, empty texts and zeros (ADR 0007)."""
    trace = trace_of(a_refusal(error_code=ErrorCode.AGENT_SUSPENDED))

    assert trace is not None
    assert (trace.agent_id, trace.session_id, trace.checkpoint_id, trace.directive_version_id) == (NIL_ID,) * 4
    assert (trace.model, trace.provider, trace.finish_reason, trace.directive_hash) == ("",) * 4
    assert (trace.input_tokens, trace.output_tokens, trace.total_tokens, trace.cached_tokens) == (0,) * 4
    assert (trace.status_code, trace.error_code, trace.is_complete) == (403, "AGENT_SUSPENDED", False)
    assert (trace.auth_ms, trace.rate_limit_ms, trace.provider_ttfb_ms) == (0.01, 0.0, 0.0)


def test_without_an_organization_there_is_no_trace() -> None:
    """A failed authentication stores nothing."""
    assert trace_of(a_refusal(caller=None)) is None


def test_a_trace_without_a_checkpoint_has_the_nil_id() -> None:
    """A request that did not reach the provider has no checkpoint."""
    trace = trace_of(an_exchange(reached_provider=False))

    assert trace is not None
    assert trace.checkpoint_id == NIL_ID


def test_a_cached_authentication_is_traced_as_a_hit() -> None:
    """The column is ``auth_cache``."""
    trace = trace_of(an_exchange(auth_cached=True))

    assert trace is not None
    assert trace.auth_cache == "hit"


@given(st.integers(0, 10**15))
def test_durations_have_microsecond_resolution(duration_ns: int) -> None:
    """They are never rounded up, for any duration up to days."""
    exchange = an_exchange()
    trace = trace_of(replace(exchange, timings=Timings(auth_ns=duration_ns)))

    assert trace is not None
    assert round(trace.auth_ms * 1_000) == duration_ns // 1_000
