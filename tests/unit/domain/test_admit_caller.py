"""Who may come in, and who may not."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import (
    AGENT,
    BEARER,
    ORG,
    OTHER_AGENT,
    OTHER_ORG,
    TOKEN,
    Caches,
    ScriptedAgents,
    ScriptedTokens,
    WaitingRateLimiter,
    principal,
)
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.ids import SequentialIds
from ibex.domain.admit_caller import AdmitCaller, Credentials
from ibex.domain.errors import (
    AgentNotAuthorizedError,
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
from ibex.domain.exchange import Caller
from ibex.domain.freshness import Kind
from ibex.domain.identity import Agent, AgentStatus
from ibex.domain.known_tokens import FILTER_BITS
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.permissions import ADMIN, CHAT, READ_ONLY, Permission


class Door:
    """The use case with its neighbours and the notes of one request."""

    def __init__(self) -> None:
        self.tokens = ScriptedTokens(principal())
        self.agents = ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE))
        self.clock = ManualClock()
        self.board = InMemoryBoard(self.clock, SequentialIds())
        self.rate_limiter = WaitingRateLimiter(self.board)
        self.caches = Caches(self.clock)
        self.notes = OpenExchange.begin(self.clock, UUID(int=1), "t" * 32)
        self.admit = AdmitCaller(
            self.caches.tokens(self.tokens), self.caches.agents(self.agents), self.rate_limiter, default_rpm=600
        )

    async def knock(self, authorization: str | None = BEARER, agent_id: str | None = str(AGENT)) -> Caller | None:
        """Ask to be let in, and return who the notes say came."""
        await self.admit(Credentials(authorization, agent_id), self.notes)
        return self.notes.caller

    async def knock_twice(self) -> None:
        """Be let in until token and agent are remembered under a stamp, the board's lease being valid."""
        connection = await self.board.connection()
        await self.board.finish_filter(connection, await self.board.begin_filter(connection), bytes(FILTER_BITS // 8))
        await self.renew()
        await self.knock()
        await self.knock()
        for asked in (self.tokens.asked, self.agents.asked, self.rate_limiter.counted, self.rate_limiter.asked):
            asked.clear()

    async def renew(self) -> None:
        """Have a valid lease."""
        connection = await self.board.connection()
        assert await self.board.renew(connection, await self.board.begin_turn(connection) or "")

    async def announce(self, kind: Kind) -> None:
        """Say that something has changed."""
        await self.board.announce(await self.board.connection(), ORG, [kind])


@pytest.mark.parametrize(
    "authorization", [BEARER, BEARER.replace("Bearer", "bearer"), BEARER.replace(" ", "   "), f"  {BEARER} "]
)
async def test_a_bearer_is_understood_as_rfc_9110_writes_it(authorization: str) -> None:
    """The scheme's case does not count, and neither does the space around."""
    door = Door()

    assert await door.knock(authorization) == Caller(ORG, TOKEN.token_id, AGENT)
    assert door.tokens.asked == [TOKEN.token_id]


@pytest.mark.parametrize("authorization", [None, "", " ", "Bearer", "Bearer ", "Bearer\t", "Basic abc", TOKEN.reveal()])
async def test_without_a_bearer_the_token_is_missing(authorization: str | None) -> None:
    """Nobody is asked about it."""
    door = Door()

    with pytest.raises(MissingTokenError):
        await door.knock(authorization)
    assert door.tokens.asked == []
    assert door.notes.caller is None


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer x",
        BEARER + "0",
        BEARER[:-1],
        f"{BEARER} {TOKEN.reveal()}",
        f"{BEARER}, {BEARER}",
        BEARER.upper().replace("BEARER", "Bearer"),
        "Bearer \ud800",
    ],
)
async def test_a_malformed_token_is_invalid_without_being_looked_up(authorization: str) -> None:
    """Shape and checksum are judged here, so that a flood of garbage costs nobody anything."""
    door = Door()

    with pytest.raises(InvalidTokenError) as raised:
        await door.knock(authorization)
    assert door.tokens.asked == []
    assert str(raised.value) == InvalidTokenError.default_message


@pytest.mark.parametrize("error", [InvalidTokenError(), ServiceDegradedError()])
async def test_what_the_verifier_says_is_the_answer(error: IbexError) -> None:
    """Unknown is 401, cannot be known is 503: never the one for the other."""
    door = Door()
    door.tokens.answer = error

    with pytest.raises(type(error)) as raised:
        await door.knock()
    assert raised.value is error
    assert door.notes.caller is None
    assert door.agents.asked == []


@pytest.mark.parametrize("permissions", [Permission(0), READ_ONLY, CHAT & ~Permission.SESSION_CREATE])
async def test_every_permission_of_chat_is_needed(permissions: Permission) -> None:
    """One missing bit refuses; the organization is known by then."""
    door = Door()
    door.tokens.answer = principal(permissions=permissions)

    with pytest.raises(InsufficientPermissionsError):
        await door.knock()
    assert door.notes.caller == Caller(ORG, TOKEN.token_id)
    assert door.agents.asked == []


@pytest.mark.parametrize(
    ("path", "admitted"), [(str(ORG), True), (str(ORG).upper(), True), (str(OTHER_ORG), False), ("x", False)]
)
async def test_a_path_names_the_tokens_own_organization(path: str, *, admitted: bool) -> None:
    """Another's is 403, whatever the token may do otherwise."""
    door = Door()
    door.tokens.answer = principal(permissions=ADMIN)

    if admitted:
        await door.admit(Credentials(BEARER, str(AGENT), path), door.notes)
        return
    with pytest.raises(InsufficientPermissionsError):
        await door.admit(Credentials(BEARER, str(AGENT), path), door.notes)


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
async def test_which_agent_it_is(
    bound_to: UUID | None, claimed: str | None, agent_or_error: UUID | type[IbexError]
) -> None:
    """The header's, or the one that the token is bound to; a bound token is no other agent's."""
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


async def test_a_wrong_agent_header_is_named() -> None:
    """The field is the header; its value is not repeated."""
    door = Door()

    with pytest.raises(ValidationError) as raised:
        await door.knock(agent_id="assistant")
    (field,) = raised.value.field_errors
    assert (field.field, field.code) == ("X-IBEX-Agent-ID", FieldCode.INVALID_FORMAT)
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
async def test_an_agent_that_may_not_act_is_refused_uncounted(
    answer: Agent | Exception, error: type[IbexError]
) -> None:
    """Only an active agent's requests count against its organization."""
    door = Door()
    door.agents.answer = answer

    with pytest.raises(error):
        await door.knock()
    assert door.notes.caller == Caller(ORG, TOKEN.token_id)
    assert door.rate_limiter.counted == []


@pytest.mark.parametrize(("own", "limit"), [(None, 600), (0, 0), (7, 7)])
async def test_the_organizations_own_limit_goes_before_the_default(own: int | None, limit: int) -> None:
    """None takes the default; 0 is unlimited and not the default."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=own)

    await door.knock()

    assert door.rate_limiter.counted == [ORG]
    assert door.notes.rate_limit is not None
    assert door.notes.rate_limit.limit == limit


async def test_a_request_over_the_limit_is_told_how_long_to_wait() -> None:
    """The refusal has the wait, the notes have the decision, and the next minute is open."""
    door = Door()
    door.tokens.answer = principal(rate_limit_rpm=1)
    await door.knock()

    with pytest.raises(RateLimitedError, match="limit of 1 requests per minute") as raised:
        await door.knock()
    assert raised.value.retry_after_s == 55
    assert door.notes.rate_limit is not None
    assert not door.notes.rate_limit.allowed

    door.clock.advance(timedelta(seconds=55))
    await door.knock()


async def test_authenticating_alone_needs_no_agent_and_counts_nothing() -> None:
    """What lists models asks who it is, and no more."""
    door = Door()

    who = await door.admit.authenticate(Credentials(BEARER), door.notes)

    assert who == principal()
    assert door.notes.caller == Caller(ORG, TOKEN.token_id)
    assert (door.agents.asked, door.rate_limiter.counted) == ([], [])


def test_credentials_show_no_token() -> None:
    """Their repr has the agent and the organization that were claimed."""
    shown = repr(Credentials(BEARER, "an agent", "an organization"))

    assert shown == "<Credentials agent_id='an agent' org_id='an organization'>"


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
