"""One line a call of the auth service: which method, how long, how it came out. No token, no argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ibex.adapters.telemetry.current_request import CURRENT, CurrentRequest
from ibex.adapters.telemetry.logging import describe

if TYPE_CHECKING:
    from uuid import UUID

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.auth")


class AuthCallTelemetry:
    """Hears of calls from the gRPC layer. Every line that is logged during a call has its request id."""

    def began(self, request_id: UUID) -> None:
        """A call has come in."""
        CURRENT.set(CurrentRequest(request_id, request_id.hex))

    def failed(self, error: BaseException) -> None:
        """Log what was raised, without its message."""
        _LOG.error("unforeseen exception", exception=describe(error))

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over."""
        _LOG.info("call", method=method, status=status, duration_ms=duration_ns // 1_000 / 1_000)
        CURRENT.set(None)
