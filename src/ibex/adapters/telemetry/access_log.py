"""One line a request: who, what, how long, how it came out. No text of any message, no token, no header.

The one line that every request pays for, so it is made in one step: a struct whose fields are the line's, encoded
without what is None, and written at once. A third of what structlog's processors take for the same line (ADR 0028).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID  # noqa: TC003 - msgspec looks it up

import msgspec

from ibex.adapters.telemetry.current_request import CURRENT
from ibex.adapters.telemetry.logging import write_line

if TYPE_CHECKING:
    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.exchange import Caller, Exchange

_MODEL_CHARACTERS: Final = 64
_encode: Final = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The line. Durations are in milliseconds; what is None is left out.

    ``provider_status`` is there where the provider refused us and not the request: 401 and 403 are about our key.
    """

    event: str
    source: str
    method: str
    route: str
    status: int
    duration_ms: float
    level: str
    timestamp: datetime
    request_id: UUID | None = None
    trace_id: str | None = None
    org_id: UUID | None = None
    agent_id: UUID | None = None
    token_id: UUID | None = None
    user_id: UUID | None = None
    operation: str | None = None
    error_code: str | None = None
    session_id: UUID | None = None
    model: str | None = None
    provider: str | None = None
    provider_request_id: str | None = None
    attempts: int | None = None
    provider_status: int | None = None
    streaming: bool | None = None
    complete: bool | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    auth_ms: float | None = None
    rate_limit_ms: float | None = None
    directive_ms: float | None = None
    inject_ms: float | None = None
    provider_ttfb_ms: float | None = None
    overhead_ms: float | None = None


def write_access_line(  # noqa: PLR0913 - what the line says
    method: str,
    route: str,
    status: int,
    duration_ns: int,
    *,
    exchange: Exchange | None,
    caller: Caller | None,
    provider_status: int | None = None,
    code: ErrorCode | None = None,
) -> None:
    """Write the line, with the ids of the current request. What does not apply is left out.

    ``code`` is that of a request that was refused and left no exchange.
    """

    def line() -> bytes:
        made = _made(method, route, status, duration_ns, exchange, caller)
        made.provider_status = provider_status
        made.error_code = made.error_code or code
        return _encode(made) + b"\n"

    write_line(line)


def _made(
    method: str, route: str, status: int, duration_ns: int, exchange: Exchange | None, caller: Caller | None
) -> _Line:
    now = datetime.now(UTC)
    line = _Line("request", "ibex.access", method, route, status, duration_ns // 1_000 / 1_000, "info", now)
    request = CURRENT.get()
    if request is not None:
        line.request_id, line.trace_id = request.request_id, request.trace_id
    who = exchange.caller if exchange is not None else caller
    if who is not None:
        line.org_id, line.agent_id = who.org_id, who.agent_id
        line.token_id, line.user_id = who.token_id, who.user_id
    if exchange is not None:
        _tell(line, exchange)
    return line


def _tell(line: _Line, exchange: Exchange) -> None:
    timings, summary = exchange.timings, exchange.summary
    line.status, line.error_code = exchange.status, exchange.error_code
    line.operation = exchange.operation
    line.session_id = exchange.session.id if exchange.session is not None else None
    if exchange.provider is not None and exchange.model is not None:
        # What no provider serves is not a model's name but whatever the client wrote there.
        line.model = exchange.model[:_MODEL_CHARACTERS]
    line.provider, line.provider_request_id = exchange.provider, exchange.provider_request_id
    line.attempts = exchange.attempts or None
    line.streaming, line.complete = exchange.is_streaming, exchange.is_complete
    line.finish_reason = summary.finish_reason
    line.input_tokens, line.output_tokens = summary.usage.input_tokens, summary.usage.output_tokens
    line.auth_ms, line.rate_limit_ms = _ms(timings.auth_ns), _ms(timings.rate_limit_ns)
    line.directive_ms, line.inject_ms = _ms(timings.directive_ns), _ms(timings.inject_ns)
    line.provider_ttfb_ms, line.overhead_ms = _ms(timings.provider_ttfb_ns), _ms(timings.overhead_ns)


def _ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns // 1_000 / 1_000
