"""A limit of refused requests for each organization, worker and calendar minute (ADR 0041).

A refused request does not count against the rate limit. Without a limit of its own, one client could cause a call to
auth, a call to Redis and a trace with every request. The limit of refusals equals the organization's rate limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.domain.errors import ErrorCode
from ibex.domain.identity.rate_limits import UNLIMITED, WINDOW_S, WindowCounter, window_of
from ibex.domain.provider_errors import ProviderError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.errors import IbexError
    from ibex.domain.record.in_flight import InFlightExchange

DEFAULT_WHEN_UNLIMITED: Final = 600
"""The limit of refusals per minute for organizations without a rate limit, if the default is unlimited too."""
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
        ErrorCode.RESPONSE_NOT_FOUND,
        ErrorCode.OVERLOADED,
    }
)


def is_refusal(error: IbexError) -> bool:
    """Return whether the proxy itself refused the request because of the client or its organization."""
    return error.code in _REFUSALS and not isinstance(error, ProviderError)


class RefusedRequests:
    """A counter of refusals. Memory is bounded by the number of organizations with a refusal in the minute."""

    def __init__(self, *, default_rpm: int) -> None:
        """Set the default, in refusals per minute, for organizations without a rate limit of their own."""
        self._default_rpm = DEFAULT_WHEN_UNLIMITED if default_rpm == UNLIMITED else default_rpm
        self._counter = WindowCounter()
        self._window = 0
        self.beyond: dict[int, int] = {}
        """Organizations at or beyond their limit of refusals, with their last request count over the rate limit.

        The count is 0 if no request exceeded the rate limit. While the dict is empty, the request path reads nothing
        else of this class.
        """

    def note(self, in_flight: InFlightExchange, error: IbexError) -> None:
        """Count a refusal, once for each request, and set ``in_flight.is_excess_refusal``."""
        caller = in_flight.caller
        if caller is None or in_flight.is_excess_refusal is not None or not is_refusal(error):
            return
        now = in_flight.clock.now()
        window = window_of(now)
        if window != self._window:
            self._window = window
            self.beyond.clear()
        bound = in_flight.limit_rpm or self._default_rpm
        count = self._counter.count(caller.org_id, now)
        if count >= bound:
            self.beyond.setdefault(caller.org_id.int, 0)
        in_flight.is_excess_refusal = count > bound

    def is_beyond(self, org_id: UUID, now: datetime) -> bool:
        """Return whether the organization has reached its limit of refusals in the minute of ``now``."""
        return bool(self.beyond) and self._window == window_of(now) and org_id.int in self.beyond

    def requests_counted(self, org_id: UUID, now: datetime, count: int, *, allowed: bool) -> None:
        """Store the request count of an organization beyond its limit of refusals, if it exceeds the rate limit."""
        if self.beyond and self.is_beyond(org_id, now):
            self.beyond[org_id.int] = 0 if allowed else count

    def requests_over_limit(self, org_id: UUID, now: datetime) -> int:
        """Return the last request count that exceeded the rate limit in this minute, or 0 if none did.

        Known only for organizations beyond their limit of refusals.
        """
        return self.beyond[org_id.int] if self.is_beyond(org_id, now) else 0


def seconds_left(now: datetime) -> int:
    """Return the seconds until the end of the minute of ``now``, at least 1."""
    return WINDOW_S - int(now.timestamp()) % WINDOW_S
