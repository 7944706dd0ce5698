"""Telemetry of gRPC calls to the auth service: a histogram, and one log line for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.logging import describe

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.adapters.telemetry.ops import AuthMetrics

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.auth")
_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


class AuthCallTelemetry:
    """Counts and logs the calls that the gRPC server reports.

    Every line that is logged during a call has the call's request id. No line contains a token.
    """

    def __init__(self, metrics: AuthMetrics) -> None:
        self._metrics = metrics
        self._duration = metrics.registry.histograms(
            "call_duration_seconds", "Duration of gRPC calls, by method and status.", _BUCKETS, "method", "status"
        )

    def began(self, request_id: UUID) -> None:
        """Set the request id of a call that begins."""
        CURRENT.set(CurrentRequest(request_id, request_id.hex))

    def failed(self, error: BaseException) -> None:
        """Count and log an unexpected exception, without its message."""
        self._metrics.failures.add()
        _LOG.error("unhandled exception", exception=describe(error))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """Record the duration and status of a call that ended."""
        self._duration.of(method, status).observe(duration_ns)
        _LOG.info("call", method=method, status=status, duration_ms=duration_ns // 1_000 / 1_000)
        CURRENT.set(None)
