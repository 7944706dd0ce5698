"""What a client is told of its exchange, in response headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ibex.domain.exchange import Stage

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Headers
    from ibex.domain.open_exchange import OpenExchange

_VISIBLE = re.compile(r"[!-~]{1,256}", re.ASCII)
_STAGES: Final = tuple((stage, stage.value.encode("ascii")) for stage in Stage)


def exchange_headers(notes: OpenExchange | None) -> Headers:
    """Return the headers for what is known by now; empty where nobody was to be admitted."""
    if notes is None:
        return []
    headers: Headers = []
    if notes.session is not None:
        headers.append((b"x-ibex-session-id", notes.session.handle.encode("ascii")))
    if notes.directive is not None:
        headers.append((b"x-ibex-directive", notes.directive.receipt.encode("ascii")))
    decision = notes.rate_limit
    if decision is not None and decision.limit:
        headers += [
            (b"x-ratelimit-limit", b"%d" % decision.limit),
            (b"x-ratelimit-remaining", b"%d" % decision.remaining),
            (b"x-ratelimit-reset", b"%d" % decision.reset_unix_s),
        ]
    if notes.auth_stale:
        headers.append((b"x-ibex-auth-cached", b"true"))
    provider_request_id = notes.provider_request_id
    if provider_request_id is not None and _VISIBLE.fullmatch(provider_request_id):
        headers.append((b"x-ibex-provider-request-id", provider_request_id.encode("ascii")))
    timing = _timing(notes)
    if timing:
        headers.append((b"server-timing", b", ".join(timing)))
    return headers


def _timing(notes: OpenExchange) -> list[bytes]:
    """Return the stages that were gone through; of a provider that is still speaking, the time until now."""
    stage_ns = notes.stage_ns
    timing = [b"%b;dur=%.3f" % (name, stage_ns[stage] / 1e6) for stage, name in _STAGES if stage in stage_ns]
    if notes.provider_asked_ns is not None and notes.provider_ended_ns is None:
        so_far_ns = notes.clock.monotonic_ns() - notes.provider_asked_ns
        timing.append(b"%b;dur=%.3f" % (Stage.PROVIDER.encode("ascii"), so_far_ns / 1e6))
    return timing
