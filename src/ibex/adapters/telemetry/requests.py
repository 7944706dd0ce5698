"""Telemetry of requests: it combines what the HTTP server reports with the recorded exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ibex.adapters.telemetry.access_log import write_access_line
from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.logging import describe
from ibex.domain.record.exchange import Stage

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.metrics import Metrics
    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.in_flight import InFlightExchange

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.requests")


class RequestTelemetry:
    """A ``RequestObserver`` for the HTTP server, and an ``ExchangeObserver`` for the domain.

    Every request is counted and logged once, when the HTTP server reports its end. Its exchange is recorded before,
    either in the request's task or in a callback with a copy of its context; ``CURRENT`` is the same object in both.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """Count a request that begins, and set its ids."""
        self._metrics.request_began()
        CURRENT.set(CurrentRequest(request_id, trace_id, parent))

    def is_sampled(self, method: str, route: str) -> bool:  # noqa: ARG002 - a RequestObserver's
        """Return False: no spans are exported."""
        return False

    def failed(self, error: BaseException) -> None:
        """Count and log an unhandled exception, without its message."""
        self._metrics.request_failed()
        _LOG.error("unhandled exception", exception=describe(error))

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Count an exchange that was recorded, with or without a current request."""
        self._metrics.exchange_settled(exchange, journaled=journaled)
        request = CURRENT.get()
        if request is not None:
            request.exchange = exchange
        if exchange.caller is not None and not journaled:
            _LOG.warning("exchange not journaled")

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Count an aggregate that was not journaled. Its refusals were counted when each of them ended."""
        if not journaled:
            self._metrics.refusals_lost(exchange.repeated)
            _LOG.warning("exchange not journaled", repeated=exchange.repeated)

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """Count and log a request that ended. The status of its exchange, if there is one, takes precedence."""
        request = CURRENT.get()
        exchange = request.exchange if request is not None else None
        outcome = status if exchange is None else exchange.status
        self._metrics.request_ended(method, route, outcome, duration_ns)
        if exchange is None and in_flight is not None:
            self._count_admission(in_flight)
        caller, provider_status = (None, None) if in_flight is None else (in_flight.caller, in_flight.provider_status)
        write_access_line(
            method, route, outcome, duration_ns, exchange=exchange, caller=caller, provider_status=provider_status
        )
        CURRENT.set(None)

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """Count and log a request that was refused because of its head."""
        self._metrics.request_ended(method, route, status, duration_ns)
        write_access_line(method, route, status, duration_ns, exchange=None, caller=None, code=code)
        CURRENT.set(None)

    def _count_admission(self, in_flight: InFlightExchange) -> None:
        stage_ns = in_flight.stage_ns
        self._metrics.admitted(stage_ns.get(Stage.AUTHENTICATE), stage_ns.get(Stage.RATE_LIMIT), in_flight.rate_limit)
