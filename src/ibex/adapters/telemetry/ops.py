"""Telemetry of the ops port of the auth service (health and metrics): it reports only failures."""

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
        self.failures = self.registry.counter("internal_errors_total", "Unhandled exceptions (bugs).")
        count_dropped_lines(self.registry)

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return self.registry.render()


class OpsTelemetry:
    """A ``RequestObserver`` that reports only unhandled exceptions."""

    def __init__(self, metrics: AuthMetrics) -> None:
        self._metrics = metrics

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """Set the ids of a request that begins."""
        CURRENT.set(CurrentRequest(request_id, trace_id, parent))

    def is_sampled(self, method: str, route: str) -> bool:  # noqa: ARG002 - a RequestObserver's
        """Return False: no spans are exported."""
        return False

    def failed(self, error: BaseException) -> None:
        """Count and log an unhandled exception, without its message."""
        self._metrics.failures.add()
        _LOG.error("unhandled exception", exception=describe(error))

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:  # noqa: ARG002 - a RequestObserver's
        """Clear the ids of the request."""
        CURRENT.set(None)

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """Do nothing. No route of the ops port requires a token, so none is refused."""
