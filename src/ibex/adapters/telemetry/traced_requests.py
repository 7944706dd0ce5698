"""A ``RequestObserver`` that also exports spans. Requires the extra ``otel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.current_request import CURRENT
from ibex.adapters.telemetry.spans import FinishedRequest

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.current_request import CurrentRequest
    from ibex.adapters.telemetry.requests import RequestTelemetry
    from ibex.adapters.telemetry.span_export import SpanExport
    from ibex.adapters.telemetry.spans import SpanMaker
    from ibex.domain.clock import Clock
    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.in_flight import InFlightExchange

_NOT_TRACED: Final = frozenset({"/health", "/ready", "/metrics", "/schema", "/schema/openapi.json"})
"""Routes that monitoring requests every few seconds, and the documentation."""


class TracedRequests:
    """A ``RequestObserver`` that forwards every call to ``RequestTelemetry``, and makes the spans when a request ends.

    The response is sent and the exchange is recorded by then. While the request runs, tracing only makes the sampling
    decision, if the ``traceparent`` for the provider needs it.
    """

    def __init__(self, telemetry: RequestTelemetry, maker: SpanMaker, export: SpanExport, clock: Clock) -> None:
        self._telemetry = telemetry
        self._maker = maker
        self._export = export
        self._clock = clock

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """Forward the begin of a request."""
        self._telemetry.began(request_id, trace_id, parent)

    def is_sampled(self, method: str, route: str) -> bool:
        """Return whether the current request's spans are exported. The first call decides."""
        request = CURRENT.get()
        return request is not None and self._decide(request, method, route)

    def failed(self, error: BaseException) -> None:
        """Forward an unhandled exception."""
        self._telemetry.failed(error)

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """Forward the end of a request, and export its spans."""
        request = CURRENT.get()
        self._telemetry.ended(method, route, status, duration_ns, in_flight)
        if request is not None and route not in _NOT_TRACED and self._decide(request, method, route):
            self._trace(request, method, route, status, duration_ns, in_flight)

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """Forward the refusal of a request, and export its span."""
        request = CURRENT.get()
        self._telemetry.refused(method, route, status, code, duration_ns)
        if request is not None and self._decide(request, method, route):
            self._trace(request, method, route, status, duration_ns, None, code)

    def _decide(self, request: CurrentRequest, method: str, route: str) -> bool:
        if request.is_sampled is None:
            request.is_sampled = self._maker.is_sampled(request.trace_id, request.parent, method, route)
        return request.is_sampled

    def _trace(
        self,
        request: CurrentRequest,
        method: str,
        route: str,
        status: int,
        duration_ns: int,
        in_flight: InFlightExchange | None,
        code: ErrorCode | None = None,
    ) -> None:
        finished = FinishedRequest(
            trace_id=request.trace_id,
            request_id=request.request_id,
            parent=request.parent,
            method=method,
            route=route,
            status=status,
            ended_at=self._clock.now(),
            duration_ns=duration_ns,
            exchange=request.exchange,
            in_flight=in_flight,
            code=code,
        )
        self._export.take(self._maker.spans_of(finished))
