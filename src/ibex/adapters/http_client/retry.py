"""The retry policy: whether to retry a request, and after what delay (ADR 0019). Pure functions without I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

MAX_DELAY_S: Final = 30.0

RETRIED_STATUSES: Final = frozenset({408, 409, 429, 500, 502, 503, 504, *range(520, 526), 529, 530})
"""The statuses from 520 on are those of content delivery networks in front of a server."""
RETRIED_LATE: Final = frozenset({429, 503})
"""Statuses that are retried however long the server took: it has not worked on the request."""
RETRIED_WITHIN_S: Final = 5.0
"""A request that was with the server for longer may have been worked on, and would be billed twice."""

RETRIED_FAILURES: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)
"""Exceptions before the status line that are retried: the connection failed or was lost.

They include a server that does not send HTTP, because httpx raises the same exception if a server disconnects. They
exclude a timeout of the response, because the model may still be computing.
"""

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The maximum number of retries, and the delay before the first one, in seconds."""

    max_retries: int
    base_delay_s: float


def may_retry_failure(failure: Exception, elapsed_s: float) -> bool:
    """Return whether to retry after an exception before the status line, ``elapsed_s`` seconds into the attempt."""
    is_early = elapsed_s <= RETRIED_WITHIN_S
    return isinstance(failure, _NOT_SENT) or (is_early and isinstance(failure, RETRIED_FAILURES))


def may_retry_status(status: int, advice: str, elapsed_s: float) -> bool:
    """Return whether to retry after a status that came ``elapsed_s`` seconds into the attempt.

    ``advice`` is the value of ``x-should-retry``, which overrides the status; "" if the header is absent.
    """
    advice = advice.strip().lower()
    if advice == "false" or (advice != "true" and status not in RETRIED_STATUSES):
        return False
    return elapsed_s <= RETRIED_WITHIN_S or status in RETRIED_LATE


def next_delay(
    policy: RetryPolicy, retries: int, *, jitter: float, requested_s: float | None, remaining_s: float
) -> float | None:
    """Return the delay before the next retry, in seconds; None to give up.

    ``retries`` is the number of retries so far, ``jitter`` is from 0 to 1, ``requested_s`` is the delay that the
    provider asks for (None if it asks for none), and ``remaining_s`` is the time to the request's deadline. The delay
    doubles with each retry and is never shorter than the provider asks. If the provider asks for more than 30 s, or the
    delay goes beyond the deadline, the client gets the current response at once.
    """
    if retries >= policy.max_retries:
        return None
    backoff_s = min(policy.base_delay_s * (2**retries + jitter), MAX_DELAY_S)
    if requested_s is not None and requested_s > MAX_DELAY_S:
        return None
    delay = backoff_s if requested_s is None else max(backoff_s, requested_s)
    return delay if delay < remaining_s else None


def requested_delay_s(header: Callable[[str], str], now: datetime) -> float | None:
    """Return the delay that a response asks for, in seconds; None if it asks for none, or the value is invalid.

    ``header`` returns a header's value, "" if it is absent.

    ``retry-after-ms`` (OpenAI's, in milliseconds) takes precedence over ``Retry-After`` (RFC 9110, section 10.2.3:
    seconds or a date).
    """
    milliseconds = _number(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = header("retry-after")
    if not retry_after:
        return None
    seconds = _number(retry_after)
    return _seconds_until(retry_after, now) if seconds is None else seconds


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:  # the zone "-0000": UTC from a source whose own zone is unknown
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())
