"""Admission of cached callers without a call, until the watch or the epoch no longer allows it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from harness.chat_scene import AGENT, MOMENT, ORG, OTHER_AGENT, TOKEN, TOKEN_TEXT, principal
from harness.door import Door
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AgentSuspendedError,
    AuthUnavailableError,
    IbexError,
    InsufficientPermissionsError,
    InvalidTokenError,
    RateLimitedError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.identity.permissions import READ_ONLY
from ibex.domain.proxying.admission import Credentials
from ibex.domain.record.exchange import Caller


async def test_a_cached_caller_is_admitted_without_a_call() -> None:
    """One round trip counts the request and reads the epoch. The exchange records that both entries were cached."""
    door = Door()
    await door.warm()

    assert await door.knock() == Caller(ORG, TOKEN.token_id, AGENT)

    assert (door.tokens.asked, door.agents.asked) == ([], [])
    assert (door.rate_limiter.counted, door.rate_limiter.asked) == ([ORG], [])
    assert (door.in_flight.auth_cached, door.in_flight.auth_stale) == (True, False)


async def test_admission_returns_the_entries_that_it_used() -> None:
    """The entries and the reading of the epoch are checked again before the provider is called."""
    door = Door()
    await door.warm()

    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)

    assert admitted.epoch == door.epochs.read(ORG)
    assert (admitted.token.value, admitted.agent.value) == (principal(), Agent(AGENT, ORG, AgentStatus.ACTIVE))


async def test_a_revoked_token_is_refused_at_the_next_request() -> None:
    """It is cached for half a minute, but the epoch, which the same round trip reads, differs."""
    door = Door()
    await door.warm()
    door.tokens.answer = InvalidTokenError()
    await door.change()

    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await door.knock()
    assert len(door.tokens.asked) == 2


async def test_a_revoked_token_is_refused_after_its_event() -> None:
    """A revocation by SQL does not replace the epoch, so only the event reports it."""
    door = Door()
    await door.warm()
    door.tokens.answer = InvalidTokenError()
    door.event(Kind.TOKENS)

    with pytest.raises(InvalidTokenError):
        await door.knock()
    assert (door.tokens.asked, door.agents.asked) == ([TOKEN.token_id], [])


async def test_a_revoked_token_is_refused_three_seconds_after_the_last_pong() -> None:
    """Neither an event nor another epoch arrives. While pongs arrive, nothing is fetched."""
    door = Door()
    await door.warm()
    door.tokens.answer = InvalidTokenError()

    for _ in range(5):
        door.clock.advance(timedelta(seconds=2))
        door.confirm()
        await door.knock()
    door.clock.advance(timedelta(seconds=3))
    await door.knock()
    assert door.tokens.asked == []
    door.clock.advance(MOMENT)
    with pytest.raises(InvalidTokenError):
        await door.knock()


async def test_a_lost_epoch_causes_no_fetch() -> None:
    """A flush of Redis does not cause fetches for all organizations. The watch keeps the staleness bound."""
    door = Door()
    await door.warm()
    door.epochs.become({})

    await door.knock()
    assert (door.tokens.asked, door.agents.asked) == ([], [])


@pytest.mark.parametrize("known_by", ["the epoch", "the event"])
async def test_the_next_request_of_a_suspended_agent_is_refused(known_by: str) -> None:
    """The event names the kind of the change; the epoch stands for all kinds of the organization."""
    door = Door()
    await door.warm()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    if known_by == "the epoch":
        await door.change()
    else:
        door.event(Kind.AGENTS)

    with pytest.raises(AgentSuspendedError):
        await door.knock()
    assert door.tokens.asked == ([TOKEN.token_id] if known_by == "the epoch" else [])
    assert door.agents.asked == [(ORG, AGENT)]


async def test_an_agent_that_is_cached_as_suspended_is_refused_without_a_call_or_a_count() -> None:
    """A client that keeps sending causes no calls to auth and uses up no requests of others."""
    door = Door()
    await door.warm()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    door.event(Kind.AGENTS)
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
        pytest.param(Credentials(TOKEN_TEXT, str(AGENT)), id="its agent was suspended"),
        pytest.param(Credentials(TOKEN_TEXT, "none"), id="no agent's id"),
        pytest.param(Credentials(TOKEN_TEXT, str(AGENT), str(AGENT)), id="another organization's path"),
    ],
)
async def test_a_revoked_token_is_refused_before_any_other_error(credentials: Credentials) -> None:
    """The token is refused first, because other errors would reveal details of the organization."""
    door = Door()
    await door.warm()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    door.event(Kind.AGENTS)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.tokens.answer = InvalidTokenError()
    await door.change()

    with pytest.raises(InvalidTokenError):
        await door.admit(credentials, door.in_flight)


async def test_a_reactivated_agent_is_admitted_at_the_next_request() -> None:
    """It is cached as paused until then. Its request is counted this time."""
    door = Door()
    await door.warm()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.PAUSED)
    door.event(Kind.AGENTS)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.ACTIVE)
    door.event(Kind.AGENTS)
    door.rate_limiter.counted.clear()

    assert await door.knock() == Caller(ORG, TOKEN.token_id, AGENT)
    assert door.rate_limiter.counted == [ORG]


async def test_a_changed_rate_limit_applies_to_the_next_request() -> None:
    """A change of the organization invalidates its tokens, and the cached limit with them."""
    door = Door()
    await door.warm()
    door.tokens.answer = principal(rate_limit_rpm=1)
    await door.change()

    with pytest.raises(RateLimitedError, match="limit of 1 request "):
        await door.knock()
    assert door.in_flight.auth_cached is False


@pytest.mark.parametrize("invalidated", ["tokens", "agents"])
async def test_a_request_is_recorded_as_cached_only_if_token_and_agent_were(invalidated: str) -> None:
    """It is not if one of the two entries was fetched."""
    door = Door()
    await door.warm()
    door.event(Kind(invalidated))

    await door.knock()
    assert door.in_flight.auth_cached is False
    await door.knock()
    assert door.in_flight.auth_cached is True


async def test_a_request_that_is_served_stale_is_recorded_as_stale() -> None:
    """Auth reports that its database is down, and the epoch is that of the entry."""
    door = Door()
    await door.warm()
    door.tokens.answer = TokenSourceUnavailableError()
    door.clock.advance(timedelta(seconds=31))

    await door.knock()

    assert (door.in_flight.auth_cached, door.in_flight.auth_stale) == (False, True)
    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id, AGENT)


async def test_authentication_alone_reads_the_epoch() -> None:
    """A request without an agent detects a change as quickly as any other."""
    door = Door()
    await door.warm()
    door.tokens.answer = InvalidTokenError()
    await door.change()

    with pytest.raises(InvalidTokenError):
        await door.admit.authenticate(Credentials(TOKEN_TEXT), door.in_flight)
    assert (door.rate_limiter.counted, door.rate_limiter.asked) == ([], [ORG])


async def test_a_recheck_soon_after_admission_makes_no_call() -> None:
    """Most bodies are read at once, so they need no round trip and no call."""
    door = Door()
    await door.warm()
    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)
    door.clock.advance(timedelta(seconds=1))

    assert await door.admit.recheck(admitted, door.in_flight) is admitted.epoch

    assert (door.tokens.asked, door.agents.asked, door.rate_limiter.asked) == ([], [], [])


async def test_a_recheck_reads_the_epoch_again_when_its_reading_is_old() -> None:
    """This happens after a slow body. The request is not counted again, and while pongs arrive there is no call."""
    door = Door()
    await door.warm()
    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)
    door.clock.advance(timedelta(seconds=20))
    door.confirm()

    assert await door.admit.recheck(admitted, door.in_flight) == door.epochs.read(ORG)
    assert await door.admit.recheck(admitted, door.in_flight) == door.epochs.read(ORG)

    assert (door.tokens.asked, door.agents.asked) == ([], [])
    assert (door.rate_limiter.counted, door.rate_limiter.asked) == ([ORG], [ORG])


@pytest.mark.parametrize("known_by", ["the epoch", "the event", "nothing"])
@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"tokens": InvalidTokenError()}, InvalidTokenError),
        ({"tokens": principal(permissions=READ_ONLY)}, InsufficientPermissionsError),
        ({"tokens": principal(agent_id=OTHER_AGENT)}, AgentNotAuthorizedError),
        ({"agents": Agent(AGENT, ORG, AgentStatus.SUSPENDED)}, AgentSuspendedError),
        ({"agents": AgentNotAuthorizedError()}, AgentNotAuthorizedError),
        ({"tokens": ServiceDegradedError()}, ServiceDegradedError),
        ({"agents": AuthUnavailableError()}, AuthUnavailableError),
    ],
)
async def test_a_recheck_a_minute_later_refuses_a_changed_caller(
    known_by: str, answers: dict[str, Any], error: type[IbexError]
) -> None:
    """The epoch, the watch or neither reports the change. A failed call is an outage, not a refusal."""
    door = Door()
    await door.warm()
    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)
    for name, answer in answers.items():
        getattr(door, name).answer = answer
    if known_by == "the epoch":
        await door.change()
    elif known_by == "the event":
        for kind in (Kind.TOKENS, Kind.AGENTS):
            door.event(kind)
    door.clock.advance(timedelta(minutes=1))

    with pytest.raises(error):
        await door.admit.recheck(admitted, door.in_flight)


async def test_a_token_that_lost_its_permission_while_its_agent_was_looked_up_is_refused() -> None:
    """The agent is cached as suspended, so both entries are validated before the count."""
    door = Door()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
    with pytest.raises(AgentSuspendedError):
        await door.knock()
    door.agents.answer = Agent(AGENT, ORG, AgentStatus.ACTIVE)
    door.tokens.answer = principal(permissions=READ_ONLY)
    await door.change()

    with pytest.raises(InsufficientPermissionsError):
        await door.knock()


async def test_a_recheck_refuses_at_once_after_an_event() -> None:
    """It does so even within the second in which the epoch is not read again."""
    door = Door()
    await door.warm()
    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)
    door.tokens.answer = InvalidTokenError()
    door.event(Kind.TOKENS)

    with pytest.raises(InvalidTokenError):
        await door.admit.recheck(admitted, door.in_flight)
    assert door.rate_limiter.asked == []


async def test_a_recheck_during_an_outage_is_served_stale_and_recorded_as_stale() -> None:
    """During a slow body, auth's database became unavailable, and the epoch is unchanged."""
    door = Door()
    await door.warm()
    admitted = await door.admit(Credentials(TOKEN_TEXT, str(AGENT)), door.in_flight)
    assert not door.in_flight.auth_stale
    door.tokens.answer = TokenSourceUnavailableError()
    door.agents.answer = AgentSourceUnavailableError()
    door.clock.advance(timedelta(minutes=1))

    await door.admit.recheck(admitted, door.in_flight)

    assert door.in_flight.auth_stale
