"""The refusals that count, and the limit of refusals of an organization."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import ORG, OTHER_ORG
from harness.memory.clock import ManualClock
from ibex.domain import errors, provider_errors
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    ErrorCode,
    IbexError,
    InternalError,
    InvalidTokenError,
    OverloadedError,
    RateLimitedError,
    ServiceDegradedError,
    ValidationError,
)
from ibex.domain.provider_errors import ProviderError, ProviderRateLimitedError, ProviderRefusal, ProviderRefusedError
from ibex.domain.proxying.refused_requests import DEFAULT_WHEN_UNLIMITED, RefusedRequests, is_refusal, seconds_left
from ibex.domain.record.exchange import Caller
from ibex.domain.record.in_flight import InFlightExchange

UNKNOWN_AGENT = AgentNotAuthorizedError()
NOT_COUNTED = {
    ErrorCode.MISSING_TOKEN,
    ErrorCode.INVALID_TOKEN,
    ErrorCode.CLIENT_CLOSED_REQUEST,
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.SERVICE_DEGRADED,
    ErrorCode.AUTH_UNAVAILABLE,
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.PROVIDER_TIMEOUT,
    ErrorCode.UPGRADE_REFUSED,  # decided before the organization is known
}


def notes_of(clock: ManualClock, org_id: UUID = ORG, limit: int = 3) -> InFlightExchange:
    """Return the exchange in flight of a request whose organization is known."""
    in_flight = InFlightExchange.begin(clock, UUID(int=1), "t" * 32)
    in_flight.caller = Caller(org_id, UUID(int=2))
    in_flight.limit_rpm = limit
    return in_flight


def refuse(refused: RefusedRequests, clock: ManualClock, org_id: UUID = ORG, limit: int = 3) -> bool | None:
    """Count one refusal, and return whether it is beyond the bound."""
    in_flight = notes_of(clock, org_id, limit)
    refused.note(in_flight, UNKNOWN_AGENT)
    return in_flight.is_excess_refusal


@pytest.mark.parametrize(
    "kind",
    [
        k
        for k in {**vars(errors), **vars(provider_errors)}.values()
        if isinstance(k, type) and issubclass(k, IbexError) and k is not IbexError
    ],
)
def test_errors_of_the_client_or_its_organization_are_refusals(kind: type[IbexError]) -> None:
    """Outages, bugs and errors of the provider are not."""
    if kind is ValidationError:
        error: IbexError = ValidationError(())
    elif kind is ProviderRefusedError:
        error = ProviderRefusedError(ProviderRefusal.BAD_REQUEST)
    else:
        error = kind()

    assert is_refusal(error) == (kind.code not in NOT_COUNTED and not issubclass(kind, ProviderError))


def test_the_refusals_of_an_organization_are_limited_by_its_rate_limit() -> None:
    """Further ones are excess until the minute ends. Another organization has its own limit."""
    clock, refused = ManualClock(), RefusedRequests(default_rpm=600)

    assert [refuse(refused, clock) for _ in range(5)] == [False, False, False, True, True]
    assert refused.is_beyond(ORG, clock.now())
    assert refuse(refused, clock, OTHER_ORG) is False
    assert not refused.is_beyond(OTHER_ORG, clock.now())
    clock.advance(timedelta(minutes=1))
    assert not refused.is_beyond(ORG, clock.now())
    assert refuse(refused, clock) is False


@pytest.mark.parametrize(("default_rpm", "bound"), [(2, 2), (0, DEFAULT_WHEN_UNLIMITED)])
def test_the_refusals_of_an_unlimited_organization_have_the_default_limit(default_rpm: int, bound: int) -> None:
    """If the default is unlimited too, the limit is 600 per minute: refusals are always bounded."""
    clock, refused = ManualClock(), RefusedRequests(default_rpm=default_rpm)

    assert [refuse(refused, clock, limit=0) for _ in range(bound + 1)] == [False] * bound + [True]


def test_a_refusal_that_is_noted_repeatedly_counts_once() -> None:
    """Admission notes it, and so does the use case that calls admission."""
    clock, refused = ManualClock(), RefusedRequests(default_rpm=600)
    in_flight = notes_of(clock, limit=1)
    for _ in range(3):
        refused.note(in_flight, UNKNOWN_AGENT)

    assert in_flight.is_excess_refusal is False


@pytest.mark.parametrize(
    "error", [InvalidTokenError(), InternalError(), ServiceDegradedError(), ProviderRateLimitedError()]
)
def test_other_errors_do_not_count_as_refusals(error: IbexError) -> None:
    """The refusal of a request whose organization is unknown does not count either."""
    clock, refused = ManualClock(), RefusedRequests(default_rpm=600)
    in_flight = notes_of(clock, limit=1)
    refused.note(in_flight, error)
    stranger = InFlightExchange.begin(clock, UUID(int=1), "t" * 32)
    refused.note(stranger, RateLimitedError())

    assert (in_flight.is_excess_refusal, stranger.is_excess_refusal, refused.beyond) == (None, None, {})


def test_a_count_over_the_limit_is_remembered_only_within_its_minute() -> None:
    """It is remembered only beyond the bound of refusals, and while the last count exceeds the limit."""
    clock, refused = ManualClock(), RefusedRequests(default_rpm=600)
    refused.requests_counted(ORG, clock.now(), 9, allowed=False)
    assert refused.requests_over_limit(ORG, clock.now()) == 0
    for _ in range(3):
        refuse(refused, clock)

    refused.requests_counted(ORG, clock.now(), 9, allowed=False)
    assert refused.requests_over_limit(ORG, clock.now()) == 9
    refused.requests_counted(ORG, clock.now(), 1, allowed=True)
    assert refused.requests_over_limit(ORG, clock.now()) == 0
    refused.requests_counted(ORG, clock.now(), 9, allowed=False)
    clock.advance(timedelta(minutes=1))
    assert refused.requests_over_limit(ORG, clock.now()) == 0


def test_an_overloaded_error_is_a_refusal() -> None:
    """A flood beyond an organization's slots leaves as few rows as one beyond its rate limit."""
    assert is_refusal(OverloadedError(retry_after_s=1))


def test_the_delay_until_the_next_minute_is_at_least_a_second() -> None:
    """At the beginning of a minute it is the whole minute."""
    clock = ManualClock()
    begin = clock.now().replace(second=0, microsecond=0)
    assert seconds_left(begin) == 60
    assert seconds_left(begin + timedelta(seconds=59, microseconds=999_999)) == 1
