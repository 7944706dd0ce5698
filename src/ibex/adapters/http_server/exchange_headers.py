"""The response headers that describe the exchange to the client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ibex.domain.record.exchange import Stage

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Headers
    from ibex.domain.record.in_flight import InFlightExchange

_VISIBLE = re.compile(r"[!-~]{1,256}", re.ASCII)
_STAGES: Final = tuple((stage, stage.value.encode("ascii")) for stage in Stage)


def exchange_headers(in_flight: InFlightExchange | None) -> Headers:
    """Return the headers for the values that are known so far; empty if there is no exchange."""
    if in_flight is None:
        return []
    headers: Headers = []
    if in_flight.session is not None:
        headers.append((b"x-ibex-session-id", in_flight.session.handle.encode("ascii")))
    if in_flight.directive is not None:
        headers.append((b"x-ibex-directive", in_flight.directive.receipt.encode("ascii")))
    decision = in_flight.rate_limit
    if decision is not None and decision.limit:
        headers += [
            (b"x-ratelimit-limit", b"%d" % decision.limit),
            (b"x-ratelimit-remaining", b"%d" % decision.remaining),
            (b"x-ratelimit-reset", b"%d" % decision.reset_unix_s),
        ]
    if in_flight.auth_stale:
        headers.append((b"x-ibex-auth-cached", b"true"))
    provider_request_id = in_flight.provider_request_id
    if provider_request_id is not None and _VISIBLE.fullmatch(provider_request_id):
        headers.append((b"x-ibex-provider-request-id", provider_request_id.encode("ascii")))
    if in_flight.processing_ms is not None:
        headers.append((b"openai-processing-ms", b"%d" % in_flight.processing_ms))
    timing = _timing(in_flight)
    if timing:
        headers.append((b"server-timing", b", ".join(timing)))
    return headers


def _timing(in_flight: InFlightExchange) -> list[bytes]:
    """Return the durations of the stages so far. A provider stage that has not ended counts up to now."""
    stage_ns = in_flight.stage_ns
    timing = [b"%b;dur=%.3f" % (name, stage_ns[stage] / 1e6) for stage, name in _STAGES if stage in stage_ns]
    if in_flight.provider_asked_ns is not None and in_flight.provider_ended_ns is None:
        so_far_ns = in_flight.clock.monotonic_ns() - in_flight.provider_asked_ns
        timing.append(b"%b;dur=%.3f" % (Stage.PROVIDER.encode("ascii"), so_far_ns / 1e6))
    return timing
