"""What a refused request costs before and beyond its organization's bound of refusals (ADR 0041)."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import AGENT, BEARER, ORG, OTHER_AGENT, OTHER_ORG, TOKEN, principal
from harness.door import Door
from ibex.domain.admit_caller import Credentials
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    IbexError,
    InsufficientPermissionsError,
    InvalidTokenError,
    MissingAgentIdError,
    RateLimitedError,
)
from ibex.domain.exchange import Caller
from ibex.domain.freshness import Kind
from ibex.domain.identity import Agent, AgentStatus
from ibex.domain.open_exchange import OpenExchange

ACTIVE = Agent(AGENT, ORG, AgentStatus.ACTIVE)
FOREIGN_PATH = Credentials(BEARER, str(AGENT), str(OTHER_ORG))
WELL = Credentials(BEARER, str(AGENT))


def request_of(door: Door) -> OpenExchange:
    """Begin a request."""
    door.notes = OpenExchange.begin(door.clock, UUID(int=1), "t" * 32)
    return door.notes


async def refused(door: Door, credentials: Credentials) -> IbexError:
    """Be refused, and return why."""
    with pytest.raises(IbexError) as raised:
        await door.admit(credentials, request_of(door))
    return raised.value


async def door_beyond_the_bound(limit: int = 3) -> Door:
    """Return a door whose organization has used up its refusals, with token and agent remembered."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=limit)
    await door.knock_twice()
    for _ in range(limit):
        assert isinstance(await refused(door, FOREIGN_PATH), InsufficientPermissionsError)
        assert door.notes.is_excess_refusal is False
    forget_what_was_asked(door)
    return door


def forget_what_was_asked(door: Door) -> None:
    """Begin to count calls anew."""
    for asked in (door.tokens.asked, door.agents.asked, door.rate_limiter.counted, door.rate_limiter.asked):
        asked.clear()


def calls(door: Door) -> int:
    """Return how many calls to another service were made."""
    asked = (door.tokens.asked, door.agents.asked, door.rate_limiter.counted, door.rate_limiter.asked)
    return sum(len(one) for one in asked)


async def test_an_absent_agent_is_looked_up_once() -> None:
    """The second request is refused by what the first found; it costs the round trip that confirms it."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = AgentNotAuthorizedError()
    unknown = Credentials(BEARER, str(OTHER_AGENT))

    for _ in range(3):
        assert isinstance(await refused(door, unknown), AgentNotAuthorizedError)
        assert door.notes.caller == Caller(ORG, TOKEN.token_id)

    assert door.agents.asked[0] == (ORG, OTHER_AGENT)
    assert len(door.agents.asked) <= 2  # the first one was fetched before any news of the organization
    assert (door.tokens.asked, door.rate_limiter.counted) == ([], [])
    assert len(door.rate_limiter.asked) == 3


async def test_an_agent_that_was_created_is_admitted_at_once() -> None:
    """Its creation is announced like any change, so the next request looks it up again."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = AgentNotAuthorizedError()
    for _ in range(3):
        await refused(door, Credentials(BEARER, str(OTHER_AGENT)))

    door.agents.answer = Agent(OTHER_AGENT, ORG, AgentStatus.ACTIVE)
    await door.announce(Kind.AGENTS)
    await door.admit(Credentials(BEARER, str(OTHER_AGENT)), request_of(door))

    assert door.notes.caller == Caller(ORG, TOKEN.token_id, OTHER_AGENT)


async def test_an_agent_that_was_created_is_admitted_without_news_too() -> None:
    """Where nobody can confirm it, an absence holds no longer than anything else."""
    door = Door()
    door.agents.answer = AgentNotAuthorizedError()
    await refused(door, WELL)

    door.agents.answer = ACTIVE
    door.clock.advance(timedelta(seconds=2, microseconds=1))
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_refusals_cost_nobody_anything() -> None:
    """Foreign paths and agents that are not remembered: no call to auth, none to Redis."""
    door = await door_beyond_the_bound()

    for number in range(1_000):
        assert isinstance(await refused(door, FOREIGN_PATH), InsufficientPermissionsError)
        unknown = Credentials(BEARER, str(UUID(int=1 << 64 | number)))
        error = await refused(door, unknown)
        assert isinstance(error, RateLimitedError)
        assert error.retry_after_s == 55
        assert door.notes.is_excess_refusal is True

    assert calls(door) == 0


async def test_beyond_the_bound_a_valid_caller_is_still_admitted() -> None:
    """Token and agent are remembered; the request is counted and confirmed as ever."""
    door = await door_beyond_the_bound()

    await door.admit(WELL, request_of(door))

    assert door.notes.caller == Caller(ORG, TOKEN.token_id, AGENT)
    assert (door.tokens.asked, door.agents.asked, door.rate_limiter.counted) == ([], [], [ORG])


async def test_beyond_the_bound_requests_over_the_limit_cost_nobody_anything() -> None:
    """The first one beyond it is counted; then it is known until the minute ends."""
    door = await door_beyond_the_bound()
    await door.admit(WELL, request_of(door))  # the third
    for _ in range(100):
        error = await refused(door, WELL)
        assert isinstance(error, RateLimitedError)
        assert "limit of 3 requests" in str(error)
        assert door.notes.rate_limit is not None
        assert (door.notes.rate_limit.allowed, door.notes.rate_limit.remaining) == (False, 0)

    assert door.rate_limiter.counted == [ORG, ORG]
    door.clock.advance(timedelta(seconds=55))
    await door.renew()
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_a_revoked_token_is_refused_as_such_within_its_grace() -> None:
    """Two seconds after it was last confirmed it is confirmed again, whatever else the request is refused for."""
    for credentials in (FOREIGN_PATH, Credentials(BEARER, str(OTHER_AGENT)), WELL):
        door = await door_beyond_the_bound()
        for _ in range(3):
            await door.rate_limiter.limiter.count(ORG, door.clock.now())  # over its limit, too
        await refused(door, WELL)
        door.tokens.answer = InvalidTokenError()
        await door.announce(Kind.TOKENS)
        door.clock.advance(timedelta(seconds=2, microseconds=1))

        assert isinstance(await refused(door, credentials), InvalidTokenError)


async def test_beyond_the_bound_a_limit_that_was_raised_holds_after_the_grace() -> None:
    """The round trip that confirms the token brings the news of it."""
    door = await door_beyond_the_bound()
    await door.admit(WELL, request_of(door))
    for _ in range(2):
        assert isinstance(await refused(door, WELL), RateLimitedError)
    door.tokens.answer = principal(rate_limit_rpm=100)
    await door.announce(Kind.TOKENS)
    door.clock.advance(timedelta(seconds=2, microseconds=1))

    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_an_inactive_agent_is_refused_without_a_call() -> None:
    """As long as it was confirmed a moment ago; one that was activated is admitted after the grace."""
    door = await door_beyond_the_bound(30)
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.PAUSED)
    await door.announce(Kind.AGENTS)
    assert isinstance(await refused(door, WELL), AgentSuspendedError)
    forget_what_was_asked(door)

    assert isinstance(await refused(door, WELL), AgentSuspendedError)
    assert calls(door) == 0
    door.agents.answer = ACTIVE
    await door.announce(Kind.AGENTS)
    door.clock.advance(timedelta(seconds=2, microseconds=1))
    await door.admit(WELL, request_of(door))


async def test_beyond_the_bound_a_caller_that_lists_models_is_known_without_a_call() -> None:
    """And is refused what it may not do."""
    door = await door_beyond_the_bound()

    assert (await door.admit.authenticate(Credentials(BEARER), request_of(door))).org_id == ORG
    with pytest.raises(InsufficientPermissionsError):
        await door.admit.authenticate(FOREIGN_PATH, request_of(door))

    assert door.notes.is_excess_refusal is True
    assert calls(door) == 0


async def test_a_request_that_is_refused_later_is_counted_too() -> None:
    """For its body, say; and once only."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=1)
    await door.knock()
    door.admit.note_refusal(door.notes, MissingAgentIdError())
    assert door.notes.is_excess_refusal is False

    await refused(door, FOREIGN_PATH)
    assert door.notes.is_excess_refusal is True
    door.admit.note_refusal(door.notes, InsufficientPermissionsError())
    assert door.notes.is_excess_refusal is True
