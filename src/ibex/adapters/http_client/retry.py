"""When to ask a provider again, and after how long (ADR 0019). Nothing here waits, reads a clock or draws a number."""

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

LONGEST_DELAY_S: Final = 30.0

RETRIED_STATUSES: Final = frozenset({408, 409, 429, 500, 502, 503, 504})

RETRIED_FAILURES: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)
"""What, coming before the status line, means that there was no connection or that it died.

A peer that sends something else than HTTP is among them: httpx does not tell it from one that just goes. Silence is
not, since the model may be thinking.
"""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to ask again, and the delay before the first time, in seconds."""

    max_retries: int
    base_delay_s: float


def next_delay(
    policy: RetryPolicy, retries: int, *, jitter: float, asked_s: float | None, left_s: float
) -> float | None:
    """Return how many seconds to wait before asking again, or None to give up.

    ``retries`` counts those made so far, ``jitter`` is from 0 to 1, ``asked_s`` is the delay that the provider asked
    for, if any, and ``left_s`` is the time to the request's deadline. The delay doubles from one retry to the next and
    is never shorter than the provider asked; if that is more than 30 s, or goes beyond the deadline, the client is
    better served by the answer that is there.
    """
    if retries >= policy.max_retries:
        return None
    own = min(policy.base_delay_s * (2**retries + jitter), LONGEST_DELAY_S)
    if asked_s is not None and asked_s > LONGEST_DELAY_S:
        return None
    delay = own if asked_s is None else max(own, asked_s)
    return delay if delay < left_s else None


def asked_delay_s(header: Callable[[str], str], now: datetime) -> float | None:
    """Return the seconds to wait that an answer asks for; None if it does not, or not understandably.

    ``header`` returns a field's value, "" where there is none.

    ``retry-after-ms`` (OpenAI's, milliseconds) comes before ``Retry-After`` (RFC 9110, section 10.2.3: seconds or a
    date).
    """
    milliseconds = _number(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = header("retry-after")
    if not asked:
        return None
    seconds = _number(asked)
    return _seconds_until(asked, now) if seconds is None else seconds


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
    if then.tzinfo is None:  # "-0000": UTC, from a source that does not know its own zone
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())
