"""Requests that are traced besides being counted and written down. Needs the extra ``otel``."""

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
"""What is asked every few seconds by who watches over the proxy."""


class TracedRequests:
    """A ``RequestObserver`` around the one that there is without tracing: it hears all, and spans are made at the end.

    By then the response is sent, and the exchange settled: there is nothing to trace while the request runs.
    """

    def __init__(self, telemetry: RequestTelemetry, maker: SpanMaker, export: SpanExport, clock: Clock) -> None:
        self._telemetry = telemetry
        self._maker = maker
        self._export = export
        self._clock = clock

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """A request has come in."""
        self._telemetry.began(request_id, trace_id, parent)

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised."""
        self._telemetry.failed(error)

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """The request is over: make its spans of what it left."""
        request = CURRENT.get()
        self._telemetry.ended(method, route, status, duration_ns, in_flight)
        if request is not None and route not in _NOT_TRACED:
            self._trace(request, method, route, status, duration_ns, in_flight)

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """The request was refused by its head alone: make its span."""
        request = CURRENT.get()
        self._telemetry.refused(method, route, status, code, duration_ns)
        if request is not None:
            self._trace(request, method, route, status, duration_ns, None, code)

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
