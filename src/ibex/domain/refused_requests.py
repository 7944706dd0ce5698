"""Refused requests of an organization, counted in calendar minutes of each worker, with the organization's own limit.

A refused request is not counted against the limit of requests. Without a bound of its own, one client could make as
many calls to auth and Redis, and as many traces, as it can send requests. ADR 0041 says what changes beyond the bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.domain.errors import ErrorCode, ProviderError
from ibex.domain.rate_limits import UNLIMITED, WINDOW_S, WindowCounter, window_of

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.errors import IbexError
    from ibex.domain.open_exchange import OpenExchange

WHERE_UNLIMITED: Final = 600
"""Refusals per minute of organizations without a limit where the default is unlimited too."""
_REFUSALS: Final = frozenset(
    {
        ErrorCode.INVALID_JSON,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.MISSING_AGENT_ID,
        ErrorCode.INSUFFICIENT_PERMISSIONS,
        ErrorCode.AGENT_NOT_AUTHORIZED,
        ErrorCode.AGENT_SUSPENDED,
        ErrorCode.NOT_FOUND,
        ErrorCode.METHOD_NOT_ALLOWED,
        ErrorCode.REQUEST_TIMEOUT,
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.HEADERS_TOO_LARGE,
        ErrorCode.RATE_LIMITED,
        ErrorCode.PROVIDER_NOT_CONFIGURED,
        ErrorCode.OVERLOADED,
    }
)


def is_refusal(error: IbexError) -> bool:
    """Tell whether the proxy itself refused the request, for what the client or its organization did."""
    return error.code in _REFUSALS and not isinstance(error, ProviderError)


class RefusedRequests:
    """Counts refusals. Its memory is bounded by the number of organizations that had one in the minute."""

    def __init__(self, *, default_rpm: int) -> None:
        """Take the bound, in refusals per minute, for organizations that set no limit or have none."""
        self._default_rpm = WHERE_UNLIMITED if default_rpm == UNLIMITED else default_rpm
        self._counter = WindowCounter()
        self._window = 0
        self.beyond: dict[int, int] = {}
        """Organizations at or beyond their bound, with the last count of requests over their limit, 0 if not known.

        While it is empty, the request path asks nothing else of this object.
        """

    def note(self, notes: OpenExchange, error: IbexError) -> None:
        """Count a refusal, once for each request, and note whether it is beyond the bound."""
        caller = notes.caller
        if caller is None or notes.is_excess_refusal is not None or not is_refusal(error):
            return
        now = notes.clock.now()
        window = window_of(now)
        if window != self._window:
            self._window = window
            self.beyond.clear()
        bound = notes.limit_rpm or self._default_rpm
        count = self._counter.count(caller.org_id, now)
        if count >= bound:
            self.beyond.setdefault(caller.org_id.int, 0)
        notes.is_excess_refusal = count > bound

    def is_beyond(self, org_id: UUID, now: datetime) -> bool:
        """Tell whether the organization has used up its refusals in the minute of ``now``."""
        return bool(self.beyond) and self._window == window_of(now) and org_id.int in self.beyond

    def requests_counted(self, org_id: UUID, now: datetime, count: int, *, allowed: bool) -> None:
        """Keep the count of an organization that is beyond its bound, as long as it is over its limit of requests."""
        if self.beyond and self.is_beyond(org_id, now):
            self.beyond[org_id.int] = 0 if allowed else count

    def requests_over_limit(self, org_id: UUID, now: datetime) -> int:
        """Return the last count of requests over the limit in this minute; 0 if there is none.

        Known only of organizations beyond their bound.
        """
        return self.beyond[org_id.int] if self.is_beyond(org_id, now) else 0


def seconds_left(now: datetime) -> int:
    """Return how many seconds are left of the minute of ``now``, at least 1."""
    return WINDOW_S - int(now.timestamp()) % WINDOW_S
