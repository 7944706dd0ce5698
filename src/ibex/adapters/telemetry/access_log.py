"""One line a request: who, what, how long, how it came out. No text of any message, no token, no header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from ibex.domain.exchange import Caller, Exchange

_MODEL_CHARACTERS: Final = 64
_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.access")


def write_access_line(
    method: str, route: str, status: int, duration_ns: int, *, exchange: Exchange | None, caller: Caller | None
) -> None:
    """Write the line. Durations are in milliseconds; what does not apply is left out."""
    line: dict[str, Any] = {"method": method, "route": route, "status": status, "duration_ms": _ms(duration_ns)}
    who = exchange.caller if exchange is not None else caller
    if who is not None:
        line |= {"org_id": who.org_id, "agent_id": who.agent_id}
    if exchange is not None:
        line |= _told_by(exchange)
    _LOG.info("request", **{name: value for name, value in line.items() if value is not None})


def _told_by(exchange: Exchange) -> dict[str, Any]:
    timings, usage = exchange.timings, exchange.summary.usage
    return {
        "status": exchange.status,
        "error_code": exchange.error_code,
        "session_id": exchange.session.id if exchange.session else None,
        # What no provider serves is not a model's name but whatever the client wrote there.
        "model": (exchange.model or "")[:_MODEL_CHARACTERS] if exchange.provider else None,
        "provider": exchange.provider,
        "provider_request_id": exchange.provider_request_id,
        "attempts": exchange.attempts or None,
        "streaming": exchange.is_streaming,
        "complete": exchange.is_complete,
        "finish_reason": exchange.summary.finish_reason,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "auth_ms": _ms(timings.auth_ns),
        "rate_limit_ms": _ms(timings.rate_limit_ns),
        "directive_ms": _ms(timings.directive_ns),
        "inject_ms": _ms(timings.inject_ns),
        "provider_ttfb_ms": _ms(timings.provider_ttfb_ns),
        "overhead_ms": _ms(timings.overhead_ns),
    }


def _ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns // 1_000 / 1_000
