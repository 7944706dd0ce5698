"""Where a request's two halves meet: what HTTP saw of it, and the exchange that it left."""

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
    """Hears of requests from the HTTP layer and, as an ``ExchangeObserver``, of exchanges from the domain.

    Every request is counted and written down once, when HTTP is done with it. An exchange is settled before that, at
    once or in a callback that runs in a copy of the request's context: the context variable leads to the same request.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """A request has come in."""
        self._metrics.request_began()
        CURRENT.set(CurrentRequest(request_id, trace_id, parent))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, without its message."""
        self._metrics.request_failed()
        _LOG.error("unforeseen exception", exception=describe(error))

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """An exchange was settled. One that no request left is counted all the same."""
        self._metrics.exchange_settled(exchange, journaled=journaled)
        request = CURRENT.get()
        if request is not None:
            request.exchange = exchange
        if exchange.caller is not None and not journaled:
            _LOG.warning("exchange not journaled")

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Count an aggregate that was lost. Its refusals were counted when each was settled."""
        if not journaled:
            self._metrics.refusals_lost(exchange.repeated)
            _LOG.warning("exchange not journaled", repeated=exchange.repeated)

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """The request is over. How it came out is the exchange's to say, where there is one."""
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
        """The request was refused by its head alone."""
        self._metrics.request_ended(method, route, status, duration_ns)
        write_access_line(method, route, status, duration_ns, exchange=None, caller=None, code=code)
        CURRENT.set(None)

    def _count_admission(self, in_flight: InFlightExchange) -> None:
        stage_ns = in_flight.stage_ns
        self._metrics.admitted(stage_ns.get(Stage.AUTHENTICATE), stage_ns.get(Stage.RATE_LIMIT), in_flight.rate_limit)
