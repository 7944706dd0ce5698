"""The OpenTelemetry spans of a request, made from its exchange after it ended (ADR 0032).

Attribute names follow OpenTelemetry's semantic conventions for HTTP servers and for generative AI; others begin with
``ibex.``. Spans contain the same kinds of values as the access log: ids, enumerations, numbers and model names. They
contain no message text, token, header or path. Requires the extra ``otel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from ibex import __version__
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Stage, provider_span_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.util.types import AnyValue

    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.in_flight import InFlightExchange

Attributes: TypeAlias = "dict[str, AnyValue]"
_Stage: TypeAlias = "tuple[str, int | None, Attributes]"

_SCOPE: Final = "ibex"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_MODEL_CHARACTERS: Final = 64
_CONVENTIONAL_NAMES: Final = {"chat.completions": "chat", "responses": "chat"}
_API_TYPES: Final = {"chat.completions": "chat_completions", "responses": "responses"}
_NAME_CHARACTERS: Final = 256
_CLIENT_GONE: Final = 499
_REFUSED: Final = 400
_SERVER_ERROR: Final = 500
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)
_ROOT: Final = Context()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE: Final = TraceState()


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that ended. ``status`` is the status that was sent, 499 if none was.

    ``parent`` is the client's span, ``<span id>-<flags>``. ``exchange`` and ``in_flight`` may be None.
    ``code`` is the error code of a request that was refused without an exchange.
    """

    trace_id: str
    request_id: UUID
    parent: str | None
    method: str
    route: str
    status: int
    ended_at: datetime
    duration_ns: int
    exchange: Exchange | None = None
    in_flight: InFlightExchange | None = None
    code: ErrorCode | None = None


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The address of a provider's server."""

    host: str
    port: int


class _HashedOnce(Resource):
    """A resource that computes its hash once. The SDK's serializes it as JSON for each exported span."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = hash(resource)

    __eq__ = Resource.__eq__

    def __hash__(self) -> int:
        return self._hash


class SpanMaker:
    """Makes the spans of requests. ``providers`` maps a provider to its server; the echo provider has none.

    It creates the SDK's spans without the SDK's tracer, which would take fifteen times as long (ADR 0032).
    """

    def __init__(self, resource: Resource, sampler: Sampler, providers: Mapping[str, ServerAddress]) -> None:
        self._resource = _HashedOnce(resource)
        self._sampler = sampler
        self._providers = dict(providers)
        self._scope = InstrumentationScope(_SCOPE, __version__)
        self._new_span_id = RandomIdGenerator().generate_span_id

    def is_sampled(self, trace_id: str, parent: str | None, method: str, route: str) -> bool:
        """Return the sampler's decision about a request; the arguments are those of ``FinishedRequest``."""
        number = int(trace_id, 16)
        client = _client_span(number, parent)
        if client is None:
            # Ratio samplers compare the low 64 bits, and the first two of those are constant in a UUIDv7.
            context, number = _ROOT, number << 8
        else:
            context = set_span_in_context(NonRecordingSpan(client), _ROOT)
        result = self._sampler.should_sample(context, number, _name(method, route), SpanKind.SERVER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def spans_of(self, request: FinishedRequest) -> list[ReadableSpan]:
        """Return the request's span, then those of its stages."""
        name = _name(request.method, request.route)
        trace_id = int(request.trace_id, 16)
        parent = _client_span(trace_id, request.parent)
        ended_ns = _unix_ns(request.ended_at)
        began_ns = ended_ns - request.duration_ns
        outcome = request.status if request.exchange is None else request.exchange.status
        status = _ERROR if outcome >= _SERVER_ERROR else _UNSET
        attributes = _request_attributes(request)
        own = self._span(name, trace_id, parent, SpanKind.SERVER, attributes, (began_ns, ended_ns, status))
        return [own, *self._stages(request, own.context, began_ns)]

    def _stages(self, request: FinishedRequest, parent: SpanContext, began_ns: int) -> Iterator[ReadableSpan]:
        """Yield the spans of the stages. Their durations are recorded; their positions are computed.

        Admission is placed at the beginning, and the directive stages directly before the provider's. The request's
        body is read in between. All the time of authentication is in one span, also what follows the rate limit.
        """
        exchange, in_flight = request.exchange, request.in_flight
        if exchange is None:
            if in_flight is not None:
                at = began_ns + _lag(request, in_flight.requested_at, 0)
                spent = in_flight.stage_ns.get
                auth_ns, rate_limit_ns = (spent(stage) for stage in (Stage.AUTHENTICATE, Stage.RATE_LIMIT))
                admission: list[_Stage] = [("authenticate", auth_ns, {}), ("rate_limit", rate_limit_ns, {})]
                yield from self._consecutive(parent, at, admission)
            return
        timings = exchange.timings
        at = began_ns + _lag(request, exchange.requested_at, timings.total_ns)
        cached: Attributes = {"ibex.auth.cached": exchange.auth_cached}
        front: list[_Stage] = [("authenticate", timings.auth_ns, cached), ("rate_limit", timings.rate_limit_ns, {})]
        yield from self._consecutive(parent, at, front)
        provider_ns = timings.total_ns - timings.overhead_ns if exchange.reached_provider else 0
        provider_at = at + timings.total_ns - provider_ns
        directive_ns = (timings.directive_ns or 0) + (timings.inject_ns or 0)
        directive = _directive_attributes(exchange)
        back: list[_Stage] = [("directive", timings.directive_ns, directive), ("inject", timings.inject_ns, {})]
        yield from self._consecutive(parent, provider_at - directive_ns, back)
        if exchange.reached_provider:
            yield self._provider_span(exchange, parent, provider_at, provider_at + provider_ns)

    def _consecutive(self, parent: SpanContext, at: int, stages: Iterable[_Stage]) -> Iterator[ReadableSpan]:
        for name, took_ns, attributes in stages:
            if took_ns is not None:
                times = (at, at + took_ns, _UNSET)
                yield self._span(name, parent.trace_id, parent, SpanKind.INTERNAL, attributes, times)
                at += took_ns

    def _provider_span(self, exchange: Exchange, parent: SpanContext, began_ns: int, ended_ns: int) -> ReadableSpan:
        provider = exchange.provider or ""
        attributes = _provider_attributes(exchange)
        address = self._providers.get(provider)
        if address is not None:
            attributes["server.address"], attributes["server.port"] = address.host, address.port
        code = exchange.error_code
        status = _UNSET if code in (None, ErrorCode.CLIENT_CLOSED_REQUEST) else _ERROR
        name = f"{_operation(exchange)} {_model(exchange)}"
        outcome = (began_ns, ended_ns, status)
        own_id = provider_span_id(exchange.id)  # the provider has it already, in ``traceparent``
        return self._span(name, parent.trace_id, parent, SpanKind.CLIENT, attributes, outcome, own_id)

    def _span(
        self,
        name: str,
        trace_id: int,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        outcome: tuple[int, int, Status],
        span_id: int | None = None,
    ) -> ReadableSpan:
        began_ns, ended_ns, status = outcome
        return ReadableSpan(
            name,
            SpanContext(trace_id, span_id or self._new_span_id(), False, _SAMPLED, _NO_STATE),  # noqa: FBT003 - is_remote
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status,
            start_time=began_ns,
            end_time=ended_ns,
            instrumentation_scope=self._scope,
        )


def _name(method: str, route: str) -> str:
    """Return the name of a request's span."""
    method = method if method in _METHODS else "HTTP"
    return f"{method} {route}" if route else method


def _client_span(trace_id: int, parent: str | None) -> SpanContext | None:
    if parent is None:
        return None
    span_id, _, flags = parent.partition("-")
    return SpanContext(trace_id, int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _lag(request: FinishedRequest, requested_at: datetime, total_ns: int) -> int:
    """Return the time from the begin of the request to that of its exchange, clamped in case the wall clock was set."""
    lag_ns = _unix_ns(requested_at) - (_unix_ns(request.ended_at) - request.duration_ns)
    return max(0, min(lag_ns, request.duration_ns - total_ns))


def _unix_ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1_000


def _request_attributes(request: FinishedRequest) -> Attributes:
    method = request.method if request.method in _METHODS else "_OTHER"
    attributes: Attributes = {"http.request.method": method, "ibex.request.id": str(request.request_id)}
    if request.route:
        attributes["http.route"] = request.route
    if request.status != _CLIENT_GONE:
        attributes["http.response.status_code"] = request.status
    exchange, in_flight = request.exchange, request.in_flight
    if exchange is not None:
        if exchange.error_code is not None:
            attributes["error.type"] = exchange.error_code.value
        if exchange.session is not None:
            attributes["gen_ai.conversation.id"] = str(exchange.session.id)
    elif request.status >= _REFUSED:
        attributes["error.type"] = str(request.status) if request.code is None else request.code.value
    source = exchange or in_flight
    if source is not None and source.caller is not None:
        attributes["ibex.org.id"] = str(source.caller.org_id)
        if source.caller.agent_id is not None:
            attributes["ibex.agent.id"] = str(source.caller.agent_id)
    return attributes


def _directive_attributes(exchange: Exchange) -> Attributes:
    directive = exchange.directive
    if directive is None:
        return {}
    return {"ibex.directive.version_id": str(directive.version_id), "ibex.directive.version": directive.version}


def _model(exchange: Exchange) -> str:
    return (exchange.model or "")[:_MODEL_CHARACTERS]


def _operation(exchange: Exchange) -> str:
    """Return the operation's name in OpenTelemetry's conventions, or its own if they have none for it."""
    return _CONVENTIONAL_NAMES.get(exchange.operation, exchange.operation)


def _provider_attributes(exchange: Exchange) -> Attributes:
    summary, usage = exchange.summary, exchange.summary.usage
    attributes: dict[str, AnyValue | None] = {
        "gen_ai.operation.name": _operation(exchange),
        "gen_ai.provider.name": exchange.provider or "",
        "gen_ai.request.model": _model(exchange),
        "gen_ai.request.stream": exchange.is_streaming,
        "openai.api.type": _API_TYPES.get(exchange.operation),
        "gen_ai.response.id": summary.response_id,
        "gen_ai.response.model": summary.model,
        "gen_ai.response.finish_reasons": None if summary.finish_reason is None else (summary.finish_reason,),
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "ibex.provider.attempts": exchange.attempts,
        "ibex.provider.request_id": exchange.provider_request_id and exchange.provider_request_id[:_NAME_CHARACTERS],
        "error.type": exchange.error_code and exchange.error_code.value,
    }
    first_ns = exchange.timings.provider_ttfb_ns
    if exchange.is_streaming and first_ns is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = first_ns / 1e9
    return {name: value for name, value in attributes.items() if value is not None}
