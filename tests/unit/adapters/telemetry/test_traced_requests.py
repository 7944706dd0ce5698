"""Tests of traced requests through the whole HTTP application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler, SamplingResult, TraceIdRatioBased

from harness.chat_scene import DIRECTIVE_TEXT, ORG, TOKEN, event
from harness.http_scene import CHAT, HEADERS, REQUEST, HttpScene, call, scripted_stream
from harness.journal_entries import FullJournal
from harness.logs import logged
from harness.memory.clock import ManualClock
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.requests import RequestTelemetry
from ibex.adapters.telemetry.span_export import SpanExport
from ibex.adapters.telemetry.spans import SpanMaker
from ibex.adapters.telemetry.traced_requests import TracedRequests
from ibex.domain.errors import ErrorCode, InvalidTokenError
from ibex.domain.provider_errors import ProviderRefusal, ProviderRefusedError
from ibex.domain.proxying.provider import ProviderBody, TraceContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import ReadableSpan

    from ibex.adapters.http_server.asgi import App

TRACE = "0af7651916cd43dd8448eb211c80319c"
CANARY = "canary-b7ad6b71"
SECRETS = (TOKEN.reveal()[-49:], CANARY, DIRECTIVE_TEXT)
PROMPT = REQUEST.replace(b"Hello", CANARY.encode())
COMPLETION = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"%s"}}]}' % CANARY.encode()


class Traced:
    """Applications whose spans are exported into memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.metrics = Metrics(ManualClock(), FullJournal())
        self.export = SpanExport(
            lambda: self.exporter, self.metrics.registry, SystemClock(), max_queue=10_000, max_batch=100
        )

    def app(self, scene: HttpScene, sampler: Sampler = DEFAULT_ON) -> App:
        """Return the scene's application, traced."""
        telemetry = RequestTelemetry(self.metrics)
        maker = SpanMaker(Resource({}), sampler, {})
        return scene.app(TracedRequests(telemetry, maker, self.export, SystemClock()), [telemetry])

    async def spans(self) -> tuple[ReadableSpan, ...]:
        """Close the export, and return the exported spans."""
        await self.export.close()
        return self.exporter.get_finished_spans()


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    """An open export into memory."""
    traced = Traced()
    with logged():
        await traced.export.open()
        yield traced
        await traced.export.close()


async def test_a_proxied_request_has_one_span_with_its_stages(traced: Traced) -> None:
    """The trace id is the one that the client received. The metrics count the request as without tracing."""
    response = await call(traced.app(HttpScene()), "POST", CHAT, HEADERS, REQUEST)

    own, *stages = await traced.spans()
    assert own.name == f"POST {CHAT}"
    assert [span.name for span in stages] == ["authenticate", "rate_limit", "directive", "inject", "chat gpt-4o"]
    assert f"{own.context.trace_id:032x}" == response.headers["x-trace-id"]
    text = traced.metrics.render()[0].decode()
    assert f'ibex_proxy_request_duration_seconds_count{{method="POST",route="{CHAT}",status="200"}} 1.0' in text


async def test_a_request_joins_the_clients_trace(traced: Traced) -> None:
    """The client sends W3C's ``traceparent`` header."""
    parent: dict[str, str | None] = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    await call(traced.app(HttpScene()), "POST", CHAT, HEADERS | parent, REQUEST)

    own, *_ = await traced.spans()
    assert own.context.trace_id == int(TRACE, 16)
    assert own.parent is not None
    assert own.parent.span_id == int("b7ad6b7169203331", 16)


async def test_a_request_of_an_unsampled_trace_is_not_traced(traced: Traced) -> None:
    """The sampled flag of the client's ``traceparent`` header is 0."""
    parent: dict[str, str | None] = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
    response = await call(traced.app(HttpScene()), "POST", CHAT, HEADERS | parent, REQUEST)

    assert response.status == 200
    assert await traced.spans() == ()


async def test_the_provider_gets_the_trace_of_the_spans(traced: Traced) -> None:
    """The parent id is that of the CLIENT span, and the sampled flag is set."""
    scene = HttpScene()
    await call(traced.app(scene), "POST", CHAT, HEADERS, REQUEST)

    own, *_, asking = await traced.spans()
    trace = TraceContext(f"{own.context.trace_id:032x}", asking.context.span_id, 1)
    assert [request.trace for request in scene.chat.provider.asked] == [trace]


async def test_the_sampler_is_called_once_per_request(traced: Traced) -> None:
    """The flag for the provider agrees with the exported spans, for any sampler."""
    sampler = CountingSampler()
    scenes_of_calls = [HttpScene() for _ in range(20)]
    for scene in scenes_of_calls:
        await call(traced.app(scene, sampler), "POST", CHAT, HEADERS, REQUEST)

    sampled = {span.context.trace_id for span in await traced.spans() if span.parent is None}
    traces = [scene.chat.provider.asked[0].trace for scene in scenes_of_calls]
    assert [trace.flags for trace in traces if trace] == [1, 0] * 10
    assert {int(trace.trace_id, 16) for trace in traces if trace and trace.flags} == sampled
    assert sampler.asked == 20


class CountingSampler(Sampler):
    """A sampler that samples every other call, so that a second call for one request changes the result."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *arguments: Any, **more: Any) -> SamplingResult:
        """Sample every other call."""
        self.asked += 1
        return TraceIdRatioBased(self.asked % 2).should_sample(*arguments, **more)

    def get_description(self) -> str:
        """Return its name."""
        return "every other"


async def test_a_refused_request_is_traced(traced: Traced) -> None:
    """The span has the error code that the client received."""
    scene = HttpScene()
    scene.chat.tokens.answer = InvalidTokenError()
    await call(traced.app(scene), "POST", CHAT, HEADERS, REQUEST)

    own, authenticate = await traced.spans()
    assert (own.attributes or {})["error.type"] == "INVALID_TOKEN"
    assert authenticate.name == "authenticate"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/schema"])
async def test_monitoring_requests_are_not_traced(traced: Traced, path: str) -> None:
    """Monitoring systems request these routes all day long."""
    await call(traced.app(HttpScene()), "GET", path, {})

    assert await traced.spans() == ()


async def test_a_probe_is_traced(traced: Traced) -> None:
    """A probe has no exchange."""
    await call(traced.app(HttpScene()), "GET", "/v1/internal/auth-probe", HEADERS)

    assert [span.name for span in await traced.spans()] == [
        "GET /v1/internal/auth-probe",
        "authenticate",
        "rate_limit",
    ]


async def test_an_unhandled_exception_is_counted_and_traced(traced: Traced) -> None:
    """It is an internal error, and its message is not exported."""
    scene = HttpScene(RuntimeError(CANARY))
    await call(traced.app(scene), "POST", CHAT, HEADERS, REQUEST)

    own, *_ = await traced.spans()
    assert (own.attributes or {})["error.type"] == "INTERNAL_ERROR"
    assert b"ibex_proxy_internal_errors_total 1.0" in traced.metrics.render()[0]


def scenes() -> dict[str, Any]:
    """Return scenes in which a secret could be exposed, by name."""
    chunk = event(b'{"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":"stop"}]}' % CANARY.encode())
    bug = HttpScene()
    bug.chat.directives.answer = ValueError(DIRECTIVE_TEXT)
    return {
        "answered": HttpScene(ProviderBody(COMPLETION)),
        "streamed": HttpScene(scripted_stream([chunk], [event(b"[DONE]")])),
        "bug in directives": bug,
        "bug within a stream": HttpScene(scripted_stream([chunk], KeyError(CANARY))),
        "refused": HttpScene(ProviderRefusedError(ProviderRefusal.BAD_REQUEST, detail=f"Invalid value: {CANARY}")),
        "not a completion": HttpScene(ProviderBody(CANARY.encode())),
    }


BODIES = (
    PROMPT,
    PROMPT[:-1] + b',"stream":true}',
    PROMPT.replace(b'"gpt-4o"', f'"{CANARY}"'.encode()),
    PROMPT[:-1],
)


@pytest.mark.parametrize("name", scenes())
@pytest.mark.parametrize("body", BODIES)
async def test_no_secret_is_exported(traced: Traced, name: str, body: bytes) -> None:
    """Secrets are the token, prompt, completion and directive, and those that a client puts into the wrong place."""
    app = traced.app(scenes()[name])
    wrong: dict[str, str | None] = {
        "x-ibex-session-end": CANARY,
        "x-ibex-session-id": CANARY,
        "x-request-id": CANARY,
        "traceparent": CANARY,
        "tracestate": f"{CANARY}={CANARY}",
        "baggage": f"a={CANARY}",
        "user-agent": CANARY,
    }

    await call(app, "POST", CHAT, HEADERS, body)
    await call(app, "POST", CHAT, HEADERS | wrong, body)
    await call(app, "POST", f"/v1/orgs/{CANARY}/chat/completions", HEADERS, body)
    await call(app, "GET", f"/{CANARY}?{CANARY}", HEADERS | {"authorization": CANARY})
    await call(app, "GET", f"/v1/models/{CANARY}", HEADERS)
    await call(app, "POST", f"/v1/orgs/{ORG}/chat/completions", HEADERS, body)

    spans = await traced.spans()
    exported = encode_spans(spans).SerializeToString()
    assert sum(span.parent is None for span in spans) == 6
    for secret in SECRETS:
        assert secret.encode() not in exported


async def test_a_request_refused_by_its_head_is_one_span(traced: Traced) -> None:
    """The span has no stages and belongs to the client's trace."""
    telemetry = TracedRequests(
        RequestTelemetry(traced.metrics), SpanMaker(Resource({}), DEFAULT_ON, {}), traced.export, SystemClock()
    )
    telemetry.began(UUID(int=7), TRACE, "b7ad6b7169203331-01")
    telemetry.refused("POST", CHAT, 401, ErrorCode.MISSING_TOKEN, 2_000_000)

    (span,) = await traced.spans()
    assert span.name == f"POST {CHAT}"
    assert f"{span.context.trace_id:032x}" == TRACE
