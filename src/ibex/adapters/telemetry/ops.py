"""Requests of who watches over a service that speaks gRPC: counted when they fail, else not worth a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.log_lines import count_dropped_lines
from ibex.adapters.telemetry.logging import describe
from ibex.adapters.telemetry.registry import Registry

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.in_flight import InFlightExchange

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.ops")


class AuthMetrics:
    """The metrics of an auth process."""

    def __init__(self) -> None:
        self.registry = Registry("ibex_auth_")
        self.failures = self.registry.counter("internal_errors_total", "Exceptions that nobody foresaw.")
        count_dropped_lines(self.registry)

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return self.registry.render()


class OpsTelemetry:
    """A ``RequestObserver`` that is silent unless something unforeseen is raised."""

    def __init__(self, metrics: AuthMetrics) -> None:
        self._metrics = metrics

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """A request has come in."""
        CURRENT.set(CurrentRequest(request_id, trace_id, parent))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, without its message."""
        self._metrics.failures.add()
        _LOG.error("unforeseen exception", exception=describe(error))

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:  # noqa: ARG002 - a RequestObserver's
        """The request is over."""
        CURRENT.set(None)

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """Nothing: no route of the ops port needs a token."""
