"""The cost of refused requests before and beyond the organization's limit of refusals (ADR 0041)."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import AGENT, MOMENT, ORG, OTHER_AGENT, OTHER_ORG, TOKEN, TOKEN_TEXT, principal
from harness.door import Door
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    IbexError,
    InsufficientPermissionsError,
    InvalidTokenError,
    MissingAgentIdError,
    RateLimitedError,
)
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.validity import UNCONFIRMED_S
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.proxying.admission import Credentials
from ibex.domain.record.exchange import Caller
from ibex.domain.record.in_flight import InFlightExchange

ACTIVE = Agent(AGENT, ORG, AgentStatus.ACTIVE)
UNCONFIRMED = timedelta(seconds=UNCONFIRMED_S) + MOMENT
FOREIGN_PATH = Credentials(TOKEN_TEXT, str(AGENT), str(OTHER_ORG))
WELL = Credentials(TOKEN_TEXT, str(AGENT))


def request_of(door: Door) -> InFlightExchange:
    """Begin a request."""
    door.in_flight = InFlightExchange.begin(door.clock, UUID(int=1), "t" * 32)
    return door.in_flight


async def refused(door: Door, credentials: Credentials) -> IbexError:
    """Send a request that must be refused, and return its error."""
    with pytest.raises(IbexError) as raised:
        await door.admit(credentials, request_of(door))
    return raised.value


async def door_beyond_the_bound(limit: int = 3) -> Door:
    """Return a door whose organization has used up its refusals, with token and agent cached."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=limit)
    await door.warm()
    for _ in range(limit):
        assert isinstance(await refused(door, FOREIGN_PATH), InsufficientPermissionsError)
        assert door.in_flight.is_excess_refusal is False
    forget_what_was_asked(door)
    return door


def forget_what_was_asked(door: Door) -> None:
    """Reset the counts of calls."""
    for asked in (door.tokens.asked, door.agents.asked, door.rate_limiter.counted, door.rate_limiter.asked):
        asked.clear()


def calls(door: Door) -> int:
    """Return the number of calls to other services."""
    asked = (door.tokens.asked, door.agents.asked, door.rate_limiter.counted, door.rate_limiter.asked)
    return sum(len(one) for one in asked)


async def test_an_absent_agent_is_looked_up_twice() -> None:
    """The refusal names no epoch, so the second request looks it up with its own reading of the epoch.

    Later requests are refused with its result. Each makes the round trip that confirms the result.
    """
    door = Door()
    await door.warm()
    door.agents.answer = AgentNotAuthorizedError()
    unknown = Credentials(TOKEN_TEXT, str(OTHER_AGENT))

    for _ in range(3):
        assert isinstance(await refused(door, unknown), AgentNotAuthorizedError)
        assert door.in_flight.caller == Caller(ORG, TOKEN.token_id)

    assert door.agents.asked == [(ORG, OTHER_AGENT)] * 2
    assert (door.tokens.asked, door.rate_limiter.counted) == ([], [])
    assert len(door.rate_limiter.asked) == 3


async def test_a_new_agent_is_admitted_after_its_event() -> None:
    """The creation of an agent is a change like any other, so the next request looks it up again."""
    door = Door()
    await door.warm()
    door.agents.answer = AgentNotAuthorizedError()
    for _ in range(3):
        await refused(door, Credentials(TOKEN_TEXT, str(OTHER_AGENT)))

    door.agents.answer = Agent(OTHER_AGENT, ORG, AgentStatus.ACTIVE)
    door.event(Kind.AGENTS)
    await door.admit(Credentials(TOKEN_TEXT, str(OTHER_AGENT)), request_of(door))

    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id, OTHER_AGENT)


async def test_a_new_agent_is_admitted_at_the_next_request() -> None:
    """Its creation replaces the epoch that confirmed its absence."""
    door = Door()
    await door.warm()
    door.agents.answer = AgentNotAuthorizedError()
    for _ in range(3):
        await refused(door, Credentials(TOKEN_TEXT, str(OTHER_AGENT)))

    door.agents.answer = Agent(OTHER_AGENT, ORG, AgentStatus.ACTIVE)
    await door.change()
    await door.admit(Credentials(TOKEN_TEXT, str(OTHER_AGENT)), request_of(door))

    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id, OTHER_AGENT)


async def test_a_new_agent_is_admitted_without_its_event_too() -> None:
    """While the watch is disconnected, an absence stays valid no longer than any other entry."""
    door = Door()
    door.agents.answer = AgentNotAuthorizedError()
    await refused(door, WELL)

    door.agents.answer = ACTIVE
    door.clock.advance(UNCONFIRMED)
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_refusals_cause_no_calls() -> None:
    """Foreign paths and agents that are not cached cause no call to auth and none to Redis."""
    door = await door_beyond_the_bound()

    for number in range(1_000):
        assert isinstance(await refused(door, FOREIGN_PATH), InsufficientPermissionsError)
        unknown = Credentials(TOKEN_TEXT, str(UUID(int=1 << 64 | number)))
        error = await refused(door, unknown)
        assert isinstance(error, RateLimitedError)
        assert error.retry_after_s == 55
        assert door.in_flight.is_excess_refusal is True

    assert calls(door) == 0


async def test_beyond_the_bound_a_valid_caller_is_still_admitted() -> None:
    """Token and agent are cached. The request is counted, and both are validated as usual."""
    door = await door_beyond_the_bound()

    await door.admit(WELL, request_of(door))

    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id, AGENT)
    assert (door.tokens.asked, door.agents.asked, door.rate_limiter.counted) == ([], [], [ORG])


async def test_beyond_the_bound_requests_over_the_limit_cause_no_calls() -> None:
    """The first request over the limit is counted. The others are refused without counting until the minute ends."""
    door = await door_beyond_the_bound()
    for _ in range(2):
        await door.admit(WELL, request_of(door))  # the second and the third
    for _ in range(100):
        error = await refused(door, WELL)
        assert isinstance(error, RateLimitedError)
        assert "limit of 3 requests" in str(error)
        assert door.in_flight.rate_limit is not None
        assert (door.in_flight.rate_limit.allowed, door.in_flight.rate_limit.remaining) == (False, 0)

    assert door.rate_limiter.counted == [ORG] * 3
    door.clock.advance(timedelta(seconds=55))
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_a_revoked_token_is_refused_as_such_when_it_is_unconfirmed() -> None:
    """Three seconds after its last confirmation it is fetched, whatever the other errors of the request."""
    for credentials in (FOREIGN_PATH, Credentials(TOKEN_TEXT, str(OTHER_AGENT)), WELL):
        door = await door_beyond_the_bound()
        for _ in range(3):
            await door.rate_limiter.limiter.count(ORG, door.clock.now())  # over its limit, too
        await refused(door, WELL)
        door.tokens.answer = InvalidTokenError()
        await door.change()
        door.clock.advance(UNCONFIRMED)

        assert isinstance(await refused(door, credentials), InvalidTokenError)


async def test_beyond_the_bound_a_revoked_token_is_refused_as_such_after_its_event() -> None:
    """The next request is refused, without a round trip."""
    for credentials in (FOREIGN_PATH, Credentials(TOKEN_TEXT, str(OTHER_AGENT)), WELL):
        door = await door_beyond_the_bound()
        for _ in range(3):
            await door.rate_limiter.limiter.count(ORG, door.clock.now())
        await refused(door, WELL)
        door.tokens.answer = InvalidTokenError()
        door.event(Kind.TOKENS)

        assert isinstance(await refused(door, credentials), InvalidTokenError)


async def test_beyond_the_bound_a_raised_limit_applies_once_the_token_is_unconfirmed() -> None:
    """The token is fetched then, and the limit with it."""
    door = await door_beyond_the_bound()
    for _ in range(2):
        await door.admit(WELL, request_of(door))
    for _ in range(2):
        assert isinstance(await refused(door, WELL), RateLimitedError)
    door.tokens.answer = principal(rate_limit_rpm=100)
    await door.change()
    door.clock.advance(UNCONFIRMED)

    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_an_inactive_agent_is_refused_without_a_call() -> None:
    """This lasts while the watch confirms it. A reactivated agent is admitted once its entry is unconfirmed."""
    door = await door_beyond_the_bound(30)
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.PAUSED)
    door.event(Kind.AGENTS)
    assert isinstance(await refused(door, WELL), AgentSuspendedError)
    forget_what_was_asked(door)

    assert isinstance(await refused(door, WELL), AgentSuspendedError)
    assert calls(door) == 0
    door.agents.answer = ACTIVE
    await door.change()
    door.clock.advance(UNCONFIRMED)
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_a_cached_caller_is_authenticated_for_the_model_list_without_a_call() -> None:
    """Without the permission it is refused."""
    door = await door_beyond_the_bound()

    assert (await door.admit.authenticate(Credentials(TOKEN_TEXT), request_of(door))).org_id == ORG
    with pytest.raises(InsufficientPermissionsError):
        await door.admit.authenticate(FOREIGN_PATH, request_of(door))

    assert door.in_flight.is_excess_refusal is True
    assert calls(door) == 0


async def test_a_refusal_after_admission_is_counted_once() -> None:
    """An example is a refusal because of the body."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=1)
    await door.knock()
    door.admit.note_refusal(door.in_flight, MissingAgentIdError())
    assert door.in_flight.is_excess_refusal is False

    await refused(door, FOREIGN_PATH)
    assert door.in_flight.is_excess_refusal is True
    door.admit.note_refusal(door.in_flight, InsufficientPermissionsError())
    assert door.in_flight.is_excess_refusal is True
