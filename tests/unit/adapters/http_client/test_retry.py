"""Tests of the retry policy."""

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


def test_the_delay_doubles_with_each_retry() -> None:
    """Without jitter, it is the base delay times two to the power of the number of retries."""
    delays = [next_delay(POLICY, n, jitter=0, requested_s=None, remaining_s=PLENTY) for n in range(4)]
    assert delays == [0.5, 1.0, 2.0, None]


def test_jitter_adds_up_to_one_base_delay() -> None:
    """It spreads the retries of clients that failed at the same time."""
    assert next_delay(POLICY, 1, jitter=0.5, requested_s=None, remaining_s=PLENTY) == 1.25


def test_the_backoff_is_at_most_thirty_seconds() -> None:
    """The maximum holds for any number of retries."""
    patient = RetryPolicy(max_retries=10, base_delay_s=20)
    assert next_delay(patient, 9, jitter=1, requested_s=None, remaining_s=PLENTY) == MAX_DELAY_S == 30


def test_without_retries_the_first_failure_is_the_last() -> None:
    """A maximum of zero retries is valid."""
    assert next_delay(RetryPolicy(0, 0.5), 0, jitter=0, requested_s=None, remaining_s=PLENTY) is None


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.5), (0.2, 0.5), (7.0, 7.0), (30.0, 30.0), (30.1, None)])
def test_a_retry_is_never_earlier_than_the_provider_asks(asked: float, expected: float | None) -> None:
    """The longer of both delays counts. Beyond 30 s there is no retry."""
    assert next_delay(POLICY, 0, jitter=0, requested_s=asked, remaining_s=PLENTY) == expected


@pytest.mark.parametrize(("left", "expected"), [(0.6, 0.5), (0.5, None), (0.1, None), (-1.0, None)])
def test_a_retry_that_would_miss_the_deadline_is_not_made(left: float, expected: float | None) -> None:
    """The client gets the error at once."""
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
def test_the_delay_that_the_provider_asks_for_is_parsed(headers: dict[str, str], expected: float | None) -> None:
    """Milliseconds take precedence over seconds or a date. Invalid values are ignored."""
    assert requested_delay_s(lambda name: httpx.Headers(headers).get(name, ""), NOW) == expected


def test_only_the_statuses_of_the_contract_are_retried() -> None:
    """No other 4xx and no other 5xx is retried."""
    assert {408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 529, 530} == RETRIED_STATUSES


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
def test_a_lost_connection_is_retried_and_a_read_timeout_is_not(failure: Exception, *, retried: bool) -> None:
    """After a read timeout, the model may still be computing the response to the first attempt."""
    assert isinstance(failure, RETRIED_FAILURES) is retried
