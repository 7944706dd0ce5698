"""Admission of callers that are not cached."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import (
    AGENT,
    MOMENT,
    ORG,
    OTHER_AGENT,
    OTHER_ORG,
    TOKEN,
    TOKEN_TEXT,
    principal,
)
from harness.door import Door
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AgentSuspendedError,
    AuthUnavailableError,
    FieldCode,
    IbexError,
    InsufficientPermissionsError,
    InvalidTokenError,
    MissingAgentIdError,
    MissingTokenError,
    RateLimitedError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
    ValidationError,
)
from ibex.domain.freshness.validity import UNCONFIRMED_S
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.identity.permissions import ADMIN, CHAT, READ_ONLY, Permission
from ibex.domain.proxying.admission import Credentials
from ibex.domain.record.exchange import Caller


@pytest.mark.parametrize("agent_id", [str(AGENT), None])
async def test_the_tokens_user_is_part_of_the_caller(agent_id: str | None) -> None:
    """The user is recorded with the token, also for a request that is refused before its agent is verified."""
    door = Door()
    door.tokens.answer = principal(user_id=UUID(int=77))

    with suppress(MissingAgentIdError):
        await door.knock(agent_id=agent_id)

    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id, AGENT if agent_id else None, UUID(int=77))


async def test_a_request_without_a_token_is_refused_without_a_call() -> None:
    """Auth is not called."""
    door = Door()

    with pytest.raises(MissingTokenError):
        await door.knock(None)
    assert door.tokens.asked == []
    assert door.in_flight.caller is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        TOKEN_TEXT + "0",
        TOKEN_TEXT[:-1],
        f"{TOKEN_TEXT} {TOKEN_TEXT}",
        f"{TOKEN_TEXT}, {TOKEN_TEXT}",
        TOKEN_TEXT.upper(),
        "\ud800",
    ],
)
async def test_a_malformed_token_is_invalid_without_being_looked_up(token: str) -> None:
    """Format and checksum are checked locally, so that a flood of garbage causes no calls."""
    door = Door()

    with pytest.raises(InvalidTokenError) as raised:
        await door.knock(token)
    assert door.tokens.asked == []
    assert str(raised.value) == InvalidTokenError.default_message


@pytest.mark.parametrize("error", [InvalidTokenError(), ServiceDegradedError()])
async def test_errors_of_the_verifier_are_raised(error: IbexError) -> None:
    """An unknown token is 401 and an outage is 503. They are never confused."""
    door = Door()
    door.tokens.answer = error

    with pytest.raises(type(error)) as raised:
        await door.knock()
    assert raised.value is error
    assert door.in_flight.caller is None
    assert door.agents.asked == []


@pytest.mark.parametrize("permissions", [Permission(0), READ_ONLY, CHAT & ~Permission.SESSION_CREATE])
async def test_chat_requires_every_one_of_its_permissions(permissions: Permission) -> None:
    """One missing bit is enough to refuse. The organization is recorded."""
    door = Door()
    door.tokens.answer = principal(permissions=permissions)

    with pytest.raises(InsufficientPermissionsError):
        await door.knock()
    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id)
    assert door.agents.asked == []


@pytest.mark.parametrize(
    ("path", "admitted"), [(str(ORG), True), (str(ORG).upper(), True), (str(OTHER_ORG), False), ("x", False)]
)
async def test_a_path_must_name_the_tokens_own_organization(path: str, *, admitted: bool) -> None:
    """Another organization is refused with 403, whatever the token's permissions."""
    door = Door()
    door.tokens.answer = principal(permissions=ADMIN)

    if admitted:
        await door.admit(Credentials(TOKEN_TEXT, str(AGENT), path), door.in_flight)
        return
    with pytest.raises(InsufficientPermissionsError):
        await door.admit(Credentials(TOKEN_TEXT, str(AGENT), path), door.in_flight)


@pytest.mark.parametrize(
    ("bound_to", "claimed", "agent_or_error"),
    [
        (None, str(AGENT), AGENT),
        (None, str(AGENT).upper(), AGENT),
        (AGENT, None, AGENT),
        (AGENT, str(AGENT), AGENT),
        (None, None, MissingAgentIdError),
        (AGENT, str(OTHER_AGENT), AgentNotAuthorizedError),
        (OTHER_AGENT, str(AGENT), AgentNotAuthorizedError),
        (None, "", ValidationError),
        (None, "assistant", ValidationError),
        (AGENT, "assistant", ValidationError),
    ],
)
async def test_the_agent_is_that_of_the_header_or_of_the_token(
    bound_to: UUID | None, claimed: str | None, agent_or_error: UUID | type[IbexError]
) -> None:
    """A token that is bound to an agent never acts as another agent."""
    door = Door()
    door.tokens.answer = principal(agent_id=bound_to)

    if isinstance(agent_or_error, UUID):
        assert await door.knock(agent_id=claimed) == Caller(ORG, TOKEN.token_id, agent_or_error)
        assert door.agents.asked == [(ORG, agent_or_error)]
        return
    with pytest.raises(agent_or_error):
        await door.knock(agent_id=claimed)
    assert door.agents.asked == []
    assert door.rate_limiter.counted == []


async def test_an_invalid_agent_header_is_named_in_the_error() -> None:
    """The error does not repeat its value."""
    door = Door()

    with pytest.raises(ValidationError) as raised:
        await door.knock(agent_id="assistant")
    (field,) = raised.value.field_errors
    assert (field.field, field.code) == ("agent_id", FieldCode.INVALID_FORMAT)
    assert "assistant" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Agent(AGENT, ORG, AgentStatus.PAUSED), AgentSuspendedError),
        (Agent(AGENT, ORG, AgentStatus.SUSPENDED), AgentSuspendedError),
        (Agent(AGENT, ORG, AgentStatus.ARCHIVED), AgentSuspendedError),
        (AgentNotAuthorizedError(), AgentNotAuthorizedError),
        (AuthUnavailableError(), AuthUnavailableError),
    ],
)
async def test_an_inactive_agent_is_refused_without_being_counted(
    answer: Agent | Exception, error: type[IbexError]
) -> None:
    """Only requests of active agents count against the limit of their organization."""
    door = Door()
    door.agents.answer = answer

    with pytest.raises(error):
        await door.knock()
    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id)
    assert door.rate_limiter.counted == []


@pytest.mark.parametrize(("own", "limit"), [(None, 600), (0, 0), (7, 7)])
async def test_the_organizations_own_limit_overrides_the_default(own: int | None, limit: int) -> None:
    """None means the default; 0 means unlimited, not the default."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=own)

    await door.knock()

    assert door.rate_limiter.counted == [ORG]
    assert door.in_flight.rate_limit is not None
    assert door.in_flight.rate_limit.limit == limit


async def test_a_request_over_the_limit_gets_a_retry_delay() -> None:
    """The refusal has the delay, and the in-flight exchange has the decision. The next minute allows requests again."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=1)
    await door.knock()

    with pytest.raises(RateLimitedError, match="limit of 1 request per minute") as raised:
        await door.knock()
    assert raised.value.retry_after_s == 55
    assert door.in_flight.rate_limit is not None
    assert not door.in_flight.rate_limit.allowed

    door.clock.advance(timedelta(seconds=55))
    await door.knock()


async def test_authentication_alone_needs_no_agent_and_counts_no_request() -> None:
    """Listing the models needs only the caller."""
    door = Door()

    who = await door.admit.authenticate(Credentials(TOKEN_TEXT), door.in_flight)

    assert who == principal()
    assert door.in_flight.caller == Caller(ORG, TOKEN.token_id)
    assert (door.agents.asked, door.rate_limiter.counted) == ([], [])


def test_the_repr_of_credentials_contains_no_token() -> None:
    """It shows the agent and the organization of the request."""
    shown = repr(Credentials(TOKEN_TEXT, "an agent", "an organization"))

    assert shown == "<Credentials agent_id='an agent' org_id='an organization'>"


@pytest.mark.parametrize("took_s", [0.7, 1.3])
async def test_a_cached_caller_is_served_stale_after_a_slow_failure_of_auth(took_s: float) -> None:
    """The epoch is read again if the first reading is too old by then, and proves that nothing has changed."""
    door = Door()
    await door.epochs.read_or_create(ORG)
    await door.warm()
    door.clock.advance(timedelta(seconds=UNCONFIRMED_S) + MOMENT)
    for source, error in ((door.tokens, TokenSourceUnavailableError()), (door.agents, AgentSourceUnavailableError())):
        source.answer = error
        source.on_asked = lambda: door.clock.advance(timedelta(seconds=took_s))

    assert await door.knock() == Caller(ORG, TOKEN.token_id, AGENT)
    assert door.in_flight.auth_stale


async def test_a_changed_caller_is_not_served_stale_after_a_slow_failure_of_auth() -> None:
    """The second reading of the epoch shows the change."""
    door = Door()
    await door.epochs.read_or_create(ORG)
    await door.warm()
    door.clock.advance(timedelta(seconds=UNCONFIRMED_S) + MOMENT)
    door.tokens.answer = TokenSourceUnavailableError()

    def fail_late() -> None:
        door.clock.advance(timedelta(seconds=1.3))
        door.epochs.become({ORG: "another"})

    door.tokens.on_asked = fail_late
    with pytest.raises(ServiceDegradedError):
        await door.knock()
