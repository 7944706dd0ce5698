"""Tests of the spans of a request: OpenTelemetry's names, recorded durations, and no content."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from harness.exchanges import REQUESTED_AT, a_refusal, an_exchange
from harness.memory.clock import ManualClock
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.spans import FinishedRequest, ServerAddress, SpanMaker
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Caller, Stage, Timings, provider_span_id
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

CHAT = "/v1/chat/completions"
TRACE = an_exchange().trace_id
CLIENT = "b7ad6b7169203331"
TOTAL_NS = an_exchange().timings.total_ns
BEFORE_NS, AFTER_NS = 200_000, 300_000
ENDED_AT = REQUESTED_AT + timedelta(microseconds=(TOTAL_NS + AFTER_NS) // 1_000)
CHAT_REQUEST = FinishedRequest(
    trace_id=TRACE,
    request_id=UUID(int=2),
    parent=None,
    method="POST",
    route=CHAT,
    status=200,
    ended_at=ENDED_AT,
    duration_ns=BEFORE_NS + TOTAL_NS + AFTER_NS,
    exchange=an_exchange(),
)


def made(sampler: Sampler = DEFAULT_ON, **changes: Any) -> list[ReadableSpan]:
    """Return the spans of a proxied request with these changes."""
    maker = SpanMaker(Resource({"service.name": "test"}), sampler, {"openai": ServerAddress("api.example", 8443)})
    request = replace(CHAT_REQUEST, **changes)
    is_sampled = maker.is_sampled(request.trace_id, request.parent, request.method, request.route)
    return maker.spans_of(request) if is_sampled else []


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


def took(span: ReadableSpan) -> int:
    """Return the duration of a span, in nanoseconds."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.end_time - span.start_time


def test_a_request_is_a_span_with_one_child_per_stage() -> None:
    """All spans have the trace id of the log lines and of ClickHouse. Each has its recorded duration."""
    own, *stages = made()

    assert (own.name, own.kind, own.parent) == (f"POST {CHAT}", SpanKind.SERVER, None)
    assert took(own) == CHAT_REQUEST.duration_ns
    assert {span.context.trace_id for span in (own, *stages)} == {int(TRACE, 16)}
    assert len({span.context.span_id for span in (own, *stages)}) == 6
    assert all(span.parent == own.context for span in stages)
    timings = an_exchange().timings
    assert [(span.name, span.kind, took(span)) for span in stages] == [
        ("authenticate", SpanKind.INTERNAL, timings.auth_ns),
        ("rate_limit", SpanKind.INTERNAL, timings.rate_limit_ns),
        ("directive", SpanKind.INTERNAL, timings.directive_ns),
        ("inject", SpanKind.INTERNAL, timings.inject_ns),
        ("chat gpt-4o", SpanKind.CLIENT, timings.total_ns - timings.overhead_ns),
    ]


def test_the_provider_span_has_the_id_that_was_sent_to_the_provider() -> None:
    """IBEX sends the id in ``traceparent`` before it creates the span."""
    exchange = an_exchange(id=UUID("019b7a1e-5a2b-7c3d-8e4f-0123456789ab"))
    *_, asking = made(exchange=exchange)

    assert asking.context.span_id == 0x8E4F0123456789AB == provider_span_id(exchange.id)


def test_stages_are_consecutive_within_the_request() -> None:
    """Admission starts when the exchange begins, and the provider's span ends with it."""
    own, *stages = made()
    times = [(span.start_time or 0, span.end_time or 0) for span in stages]

    assert times[0][0] - (own.start_time or 0) == pytest.approx(BEFORE_NS, abs=1_000)
    assert all(before[1] <= after[0] for before, after in pairwise(times))
    assert (own.end_time or 0) - times[-1][1] == pytest.approx(AFTER_NS, abs=1_000)


@pytest.mark.parametrize("by", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_clock_change_moves_no_stage_outside_its_request(by: timedelta) -> None:
    """The wall-clock times of the beginning and the end are an hour apart, but the durations are short."""
    own, *stages = made(ended_at=ENDED_AT + by)

    assert all((own.start_time or 0) <= (span.start_time or 0) for span in stages)
    assert all((span.end_time or 0) <= (own.end_time or 0) for span in stages)


def test_the_request_span_has_http_attributes_and_ids() -> None:
    """The attributes follow OpenTelemetry's HTTP conventions. The ids identify the recorded exchange."""
    assert attributes(made()[0]) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gen_ai.conversation.id": str(UUID(int=8)),
        "ibex.request.id": str(UUID(int=2)),
        "ibex.org.id": str(UUID(int=5)),
        "ibex.agent.id": str(UUID(int=7)),
    }


def test_the_provider_span_has_generative_ai_attributes() -> None:
    """They follow OpenTelemetry's conventions for generative AI, and contain no text of the conversation."""
    assert attributes(made()[-1]) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "openai.api.type": "chat_completions",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "server.address": "api.example",
        "server.port": 8443,
        "ibex.provider.attempts": 2,
        "ibex.provider.request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("operation", "name", "api"),
    [
        ("responses", "chat gpt-4o", "responses"),
        ("embeddings", "embeddings gpt-4o", None),
        ("responses.input_tokens", "responses.input_tokens gpt-4o", None),
    ],
)
def test_the_provider_span_is_named_after_the_operation(operation: str, name: str, api: str | None) -> None:
    """The span has the operation's name in OpenTelemetry's conventions, the API type and the response id."""
    summary = replace(an_exchange().summary, response_id="resp_1")
    span = made(exchange=replace(an_exchange(), operation=operation, summary=summary))[-1]

    said = attributes(span)
    assert (span.name, said["gen_ai.operation.name"]) == (name, name.split(maxsplit=1)[0])
    assert (said.get("openai.api.type"), said["gen_ai.response.id"]) == (api, "resp_1")


def test_the_directive_span_has_the_version() -> None:
    """The authentication span shows whether the authentication was cached."""
    _, authenticate, _, directive, *_ = made()

    assert attributes(authenticate) == {"ibex.auth.cached": False}
    assert attributes(directive) == {"ibex.directive.version_id": str(UUID(int=9)), "ibex.directive.version": 3}


def test_attributes_without_a_value_are_omitted() -> None:
    """The echo provider has no server address, and a buffered response has no time to the first chunk."""
    said = attributes(made(exchange=an_exchange(provider="echo", is_streaming=False, provider_request_id=None))[-1])

    assert said["gen_ai.provider.name"] == "echo"
    assert said["gen_ai.request.stream"] is False
    missing = {"server.address", "gen_ai.response.time_to_first_chunk", "ibex.provider.request_id", "error.type"}
    assert not missing & set(said)


def test_a_refusal_has_its_code_and_the_stages_that_it_reached() -> None:
    """In OpenTelemetry's HTTP conventions, a client error does not set the status ERROR on a server span."""
    refusal = a_refusal(error_code=ErrorCode.AGENT_SUSPENDED)
    own, *stages = made(status=403, exchange=refusal, duration_ns=50_000)

    assert [span.name for span in stages] == ["authenticate"]
    assert attributes(own)["error.type"] == "AGENT_SUSPENDED"
    assert attributes(own)["http.response.status_code"] == 403
    assert own.status.status_code is StatusCode.UNSET


def test_the_stage_of_an_unavailable_directive_has_its_span() -> None:
    """There is no span of the provider, and the request's span has the status ERROR."""
    timings = Timings(auth_ns=10_000, rate_limit_ns=5_000, directive_ns=50_000, overhead_ns=100_000, total_ns=100_000)
    failed = an_exchange(
        timings=timings,
        reached_provider=False,
        directive=None,
        status=503,
        error_code=ErrorCode.SERVICE_DEGRADED,
    )
    own, *stages = made(status=503, exchange=failed, duration_ns=200_000)

    assert [(span.name, took(span)) for span in stages] == [
        ("authenticate", 10_000),
        ("rate_limit", 5_000),
        ("directive", 50_000),
    ]
    assert attributes(stages[-1]) == {}
    assert own.status.status_code is StatusCode.ERROR


def test_a_failure_after_the_status_was_sent_is_an_error_of_both_spans() -> None:
    """The status attribute is the one that was sent to the client."""
    failed = an_exchange(status=503, error_code=ErrorCode.PROVIDER_UNAVAILABLE, is_complete=False)
    own, *_, asking = made(exchange=failed)

    assert attributes(own)["http.response.status_code"] == 200
    for span in (own, asking):
        assert attributes(span)["error.type"] == "PROVIDER_UNAVAILABLE"
        assert span.status.status_code is StatusCode.ERROR


def test_a_disconnected_client_has_no_status_and_sets_no_error() -> None:
    """The error type is in both spans."""
    left = an_exchange(status=499, error_code=ErrorCode.CLIENT_CLOSED_REQUEST, is_complete=False)
    own, *_, asking = made(status=499, exchange=left)

    assert "http.response.status_code" not in attributes(own)
    for span in (own, asking):
        assert attributes(span)["error.type"] == "CLIENT_CLOSED_REQUEST"
        assert span.status.status_code is StatusCode.UNSET


def test_a_request_without_an_exchange_has_its_admission_stages() -> None:
    """Examples are a probe and the list of models."""
    clock = ManualClock(REQUESTED_AT)
    in_flight = InFlightExchange.begin(clock, UUID(int=2), TRACE)
    in_flight.stage_ns[Stage.AUTHENTICATE] = 30_000
    in_flight.caller = Caller(UUID(int=5), UUID(int=6), UUID(int=7))
    own, *stages = made(method="GET", route="/v1/models", exchange=None, in_flight=in_flight)

    assert own.name == "GET /v1/models"
    assert attributes(own)["ibex.agent.id"] == str(UUID(int=7))
    assert [(span.name, took(span)) for span in stages] == [("authenticate", 30_000)]


def test_a_request_without_caller_and_route_has_a_generic_span() -> None:
    """No span contains a path or a method that the client invented."""
    (span,) = made(method="CANARY", route="", status=404, exchange=None)

    assert span.name == "HTTP"
    assert attributes(span) == {
        "http.request.method": "_OTHER",
        "http.response.status_code": 404,
        "error.type": "404",
        "ibex.request.id": str(UUID(int=2)),
    }


def test_a_long_model_name_is_truncated() -> None:
    """A model pattern can match a name of any length."""
    asking = made(exchange=an_exchange(model="gpt-" + "x" * 1_000))[-1]

    assert len(asking.name) == 69
    assert len(attributes(asking)["gen_ai.request.model"]) == 64


def test_the_clients_span_is_the_parent_of_the_requests_span() -> None:
    """The parent is marked as remote. The stages remain children of the request's span."""
    own, *stages = made(parent=f"{CLIENT}-01")

    assert own.parent is not None
    assert (own.parent.trace_id, own.parent.span_id) == (int(TRACE, 16), int(CLIENT, 16))
    assert own.parent.is_remote
    assert all(span.parent == own.context for span in stages)


@pytest.mark.parametrize(("flags", "spans"), [("00", 0), ("01", 6), ("02", 0), ("03", 6)])
def test_the_clients_sampling_decision_is_respected(flags: str, spans: int) -> None:
    """The lowest bit of the flags has the decision."""
    assert len(made(parent=f"{CLIENT}-{flags}")) == spans


def test_all_spans_have_an_equal_resource() -> None:
    """It equals the SDK's resource and has the same hash, by which the SDK groups spans."""
    resource = Resource({"service.name": "test"})
    own, other = made()[0].resource, made()[1].resource

    assert own == resource
    assert hash(own) == hash(other) == hash(resource)


def test_a_sampling_ratio_applies_to_uuid7_trace_ids() -> None:
    """A sampler compares the low bits of the id, some of which are constant in a UUIDv7."""
    sampler = ParentBased(TraceIdRatioBased(0.25))
    ids = SystemIds()
    sampled = sum(bool(made(sampler, trace_id=ids.uuid7().hex)) for _ in range(2_000))

    assert 350 < sampled < 650
