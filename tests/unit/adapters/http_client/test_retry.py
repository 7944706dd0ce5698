"""When to ask again, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from ibex.adapters.http_client.retry import (
    MAX_DELAY_S,
    RETRIED_FAILURES,
    RETRIED_STATUSES,
    RetryPolicy,
    next_delay,
    requested_delay_s,
)

POLICY = RetryPolicy(max_retries=3, base_delay_s=0.5)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLENTY = 1_000.0


def test_the_delay_doubles_from_one_retry_to_the_next() -> None:
    """Base times two to the power of the retries made, without jitter."""
    delays = [next_delay(POLICY, n, jitter=0, requested_s=None, remaining_s=PLENTY) for n in range(4)]
    assert delays == [0.5, 1.0, 2.0, None]


def test_jitter_adds_up_to_one_base_delay() -> None:
    """Clients that failed together do not come back together."""
    assert next_delay(POLICY, 1, jitter=0.5, requested_s=None, remaining_s=PLENTY) == 1.25


def test_no_delay_of_ours_is_longer_than_thirty_seconds() -> None:
    """The cap holds whatever the number of retries."""
    patient = RetryPolicy(max_retries=10, base_delay_s=20)
    assert next_delay(patient, 9, jitter=1, requested_s=None, remaining_s=PLENTY) == MAX_DELAY_S == 30


def test_without_retries_the_first_failure_is_the_last() -> None:
    """Zero is a number of retries too."""
    assert next_delay(RetryPolicy(0, 0.5), 0, jitter=0, requested_s=None, remaining_s=PLENTY) is None


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.5), (0.2, 0.5), (7.0, 7.0), (30.0, 30.0), (30.1, None)])
def test_a_retry_never_comes_before_the_provider_asked(asked: float, expected: float | None) -> None:
    """It waits the longer of both delays; beyond 30 s it gives up rather than come early."""
    assert next_delay(POLICY, 0, jitter=0, requested_s=asked, remaining_s=PLENTY) == expected


@pytest.mark.parametrize(("left", "expected"), [(0.6, 0.5), (0.5, None), (0.1, None), (-1.0, None)])
def test_a_retry_that_would_miss_the_deadline_is_not_made(left: float, expected: float | None) -> None:
    """There is no use in waiting for a moment that is too late."""
    assert next_delay(POLICY, 0, jitter=0, requested_s=None, remaining_s=left) == expected
    assert next_delay(POLICY, 0, jitter=0, requested_s=0.5, remaining_s=left) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:35 GMT"}, 30.0),
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:35 -0000"}, 30.0),
        ({"Retry-After": "Fri, 02 Jan 2026 04:04:35 +0100"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "Fri, 99 Jan 2026 03:04:35 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "12"}, 0.25),
        ({"retry-after-ms": "many", "Retry-After": "12"}, 12.0),
    ],
)
def test_the_delay_that_the_provider_asks_for_is_understood(headers: dict[str, str], expected: float | None) -> None:
    """Milliseconds before seconds or a date; what is no time is as if it was not there."""
    assert requested_delay_s(lambda name: httpx.Headers(headers).get(name, ""), NOW) == expected


def test_only_the_statuses_of_the_contract_are_retried() -> None:
    """No other 4xx, and no other 5xx."""
    assert {408, 409, 429, 500, 502, 503, 504} == RETRIED_STATUSES


@pytest.mark.parametrize(
    ("failure", "retried"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.WriteError("broken pipe"), True),
        (httpx.RemoteProtocolError("gone"), True),
        (httpx.ReadTimeout("silent"), False),
        (httpx.PoolTimeout("full"), False),
        (TimeoutError(), False),
        (httpx.UnsupportedProtocol("gopher"), False),
    ],
)
def test_a_dead_connection_is_retried_and_a_silent_one_is_not(failure: Exception, *, retried: bool) -> None:
    """A model that thinks is not asked twice."""
    assert isinstance(failure, RETRIED_FAILURES) is retried
