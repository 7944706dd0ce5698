"""Calls of a gRPC service: counted, timed and one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Histogram

from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.logging import describe

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.ops import AuthMetrics

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.calls")
_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


class CallTelemetry:
    """A ``CallObserver``: no token and no message of an exception is in what it writes."""

    def __init__(self, metrics: AuthMetrics) -> None:
        self._metrics = metrics
        self._duration = Histogram(
            "ibex_auth_call_duration_seconds",
            "Calls, by method and gRPC status.",
            ("method", "status"),
            buckets=_BUCKETS,
            registry=metrics.registry,
        )

    def began(self, request_id: UUID) -> None:
        """A call has come in."""
        CURRENT.set(CurrentRequest(request_id, ""))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, without its message."""
        self._metrics.failures.inc()
        _LOG.error("unforeseen exception", exception=describe(error))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over."""
        self._duration.labels(method, status).observe(duration_ns / 1e9)
        _LOG.info("call", method=method, status=status, duration_ms=round(duration_ns / 1e6, 3))
        CURRENT.set(None)
