"""Callers that are remembered: let in without a call, and refused as soon as the news say so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.chat_scene import AGENT, BEARER, ORG, TOKEN, principal
from harness.door import Door
from ibex.domain.admit_caller import Credentials
from ibex.domain.errors import AgentSuspendedError, InvalidTokenError, RateLimitedError, TokenSourceUnavailableError
from ibex.domain.exchange import Caller
from ibex.domain.freshness import Kind
from ibex.domain.identity import Agent, AgentStatus


async def test_who_is_remembered_is_let_in_without_a_call() -> None:
    """One round trip counts the request and proves both entries; the notes say that nobody else was asked."""
    door = Door()
    await door.knock_twice()

    assert await door.knock() == Caller(ORG, TOKEN.token_id, AGENT)

    assert (door.tokens.asked, door.agents.asked) == ([], [])
    assert (door.rate_limiter.counted, door.rate_limiter.asked) == ([ORG], [])
    assert (door.notes.auth_cached, door.notes.auth_stale) == (True, False)


async def test_the_news_that_it_was_admitted_by_are_returned() -> None:
    """What comes after admission, the directive, is judged by the same reading."""
    door = Door()
    await door.knock_twice()

    news = await door.admit(Credentials(BEARER, str(AGENT)), door.notes)

    assert news == door.board.news(ORG)


async def test_a_revoked_token_is_refused_at_the_next_request() -> None:
    """It is remembered and would live on for half a minute; the generation says otherwise."""
    door = Door()
    await door.knock_twice()
    door.tokens.answer = InvalidTokenError()
    await door.announce(Kind.TOKENS)

    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await door.knock()
    assert len(door.tokens.asked) == 2


async def test_an_unannounced_change_is_not_seen_while_the_lease_vouches() -> None:
    """That is what the lease is for; nobody is asked."""
    door = Door()
    await door.knock_twice()
    door.tokens.answer = InvalidTokenError()

    await door.knock()
    assert door.tokens.asked == []


async def test_an_agents_suspension_holds_from_the_next_request_on() -> None:
    """Remembered as active, it is looked up anew once its generation is another; the token is not."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    await door.announce(Kind.AGENTS)

    with pytest.raises(AgentSuspendedError):
        await door.knock()
    assert (door.tokens.asked, door.agents.asked) == ([], [(ORG, AGENT)])


async def test_an_agent_that_is_remembered_as_suspended_is_refused_without_a_call_and_uncounted() -> None:
    """Whoever goes on regardless costs auth nothing and uses up nobody's requests."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    await door.announce(Kind.AGENTS)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.agents.asked.clear()
    door.rate_limiter.counted.clear()

    for _ in range(3):
        with pytest.raises(AgentSuspendedError):
            await door.knock()

    assert (door.agents.asked, door.rate_limiter.counted) == ([], [])
    assert door.rate_limiter.asked == [ORG] * 3


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param(Credentials(BEARER, str(AGENT)), id="its agent was suspended"),
        pytest.param(Credentials(BEARER, "none"), id="no agent's id"),
        pytest.param(Credentials(BEARER, str(AGENT), str(AGENT)), id="another organization's path"),
    ],
)
async def test_a_revoked_token_is_told_nothing_else(credentials: Credentials) -> None:
    """What else would be wrong with the request is the organization's business: the token is refused first."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    await door.announce(Kind.AGENTS)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.tokens.answer = InvalidTokenError()
    await door.announce(Kind.TOKENS)

    with pytest.raises(InvalidTokenError):
        await door.admit(credentials, door.notes)


async def test_an_agent_that_is_active_again_is_let_in_at_the_next_request() -> None:
    """Remembered as paused, and counted this time."""
    door = Door()
    await door.knock_twice()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.PAUSED)
    await door.announce(Kind.AGENTS)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.ACTIVE)
    await door.announce(Kind.AGENTS)
    door.rate_limiter.counted.clear()

    assert await door.knock() == Caller(ORG, TOKEN.token_id, AGENT)
    assert door.rate_limiter.counted == [ORG]


async def test_the_limit_is_the_one_that_holds_now() -> None:
    """Not the one that was remembered: the organization's change is announced like a token's."""
    door = Door()
    await door.knock_twice()
    door.tokens.answer = principal(rate_limit_rpm=2)
    await door.announce(Kind.TOKENS)

    with pytest.raises(RateLimitedError, match="limit of 2 requests"):
        await door.knock()
    assert door.notes.auth_cached is False


@pytest.mark.parametrize("forgotten", ["tokens", "agents"])
async def test_only_a_request_that_asked_nobody_was_served_from_memory(forgotten: str) -> None:
    """One of the two looked up anew is enough for it not to be."""
    door = Door()
    await door.knock_twice()
    await door.announce(Kind(forgotten))

    await door.knock()
    assert door.notes.auth_cached is False
    await door.knock()
    assert door.notes.auth_cached is True


async def test_a_request_on_what_has_run_out_says_so() -> None:
    """Auth has answered that it cannot look anything up; the lease was renewed all along."""
    door = Door()
    await door.knock_twice()
    door.tokens.answer = TokenSourceUnavailableError()
    door.clock.advance(timedelta(seconds=31))
    await door.renew()

    await door.knock()

    assert (door.notes.auth_cached, door.notes.auth_stale) == (False, True)
    assert door.notes.caller == Caller(ORG, TOKEN.token_id, AGENT)


async def test_authenticating_alone_is_as_fresh() -> None:
    """What needs no agent reads the news too."""
    door = Door()
    await door.knock_twice()
    door.tokens.answer = InvalidTokenError()
    await door.announce(Kind.TOKENS)

    with pytest.raises(InvalidTokenError):
        await door.admit.authenticate(Credentials(BEARER), door.notes)
    assert (door.rate_limiter.counted, door.rate_limiter.asked) == ([], [ORG])
