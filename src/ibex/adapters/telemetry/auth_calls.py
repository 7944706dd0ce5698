"""Calls of the auth service, counted and timed, one line each: which method, how long, how it came out."""

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
    """Hears of calls from the gRPC layer. Every line that is logged during a call has its request id; none a token."""

    def __init__(self, metrics: AuthMetrics) -> None:
        self._metrics = metrics
        self._duration = metrics.registry.histograms(
            "call_duration_seconds", "Calls, by method and gRPC status.", _BUCKETS, "method", "status"
        )

    def began(self, request_id: UUID) -> None:
        """A call has come in."""
        CURRENT.set(CurrentRequest(request_id, request_id.hex))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, without its message."""
        self._metrics.failures.add()
        _LOG.error("unforeseen exception", exception=describe(error))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over."""
        self._duration.of(method, status).observe(duration_ns)
        _LOG.info("call", method=method, status=status, duration_ms=duration_ns // 1_000 / 1_000)
        CURRENT.set(None)
