"""Concurrency limits and queues of the calls to auth."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest

from harness.chat_scene import AGENT, ORG, principal
from harness.memory.clock import ManualClock
from ibex.domain.errors import InvalidTokenError, ServiceDegradedError, TooManyGuessesError, TooManyLookupsError
from ibex.domain.freshness.cache import Fetched
from ibex.domain.freshness.kinds import unknown_epoch
from ibex.domain.identity.auth_calls import (
    ABSENT_AGENTS_BURST,
    ABSENT_AGENTS_PER_SECOND,
    LIMITS,
    MAX_AGENT_CALLS_PER_ORG,
    MAX_CALLS,
    MAX_WAITING_PER_TENANT,
    AuthCalls,
    CallShares,
)
from ibex.domain.identity.guessed_secrets import LANE_BURST, Share
from ibex.domain.identity.model import Agent, AgentStatus, Principal

KNOWN = UUID(int=7)
REAL = b"r" * 32
LONG_S = 60.0
WHOSE = Fetched(principal(), unknown_epoch(0))
ABSENT: Fetched[Agent | None] = Fetched(None, unknown_epoch(0))


@dataclass(slots=True)
class Auth:
    """A verifier that answers when the test releases it. It counts the concurrent calls."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def refuse(self) -> Fetched[Principal]:
        """Refuse the secret."""
        self.asked += 1
        await self.let_go.wait()
        raise InvalidTokenError

    async def confirm(self) -> Fetched[Principal]:
        """Return the principal."""
        return WHOSE

    async def no_agent(self) -> Fetched[Agent | None]:
        """Return that the agent does not exist."""
        self.asked += 1
        await self.let_go.wait()
        return ABSENT


@dataclass(slots=True)
class Scene:
    """The calls of one worker."""

    clock: ManualClock = field(default_factory=ManualClock)
    auth: Auth = field(default_factory=Auth)
    refused: list[Share] = field(default_factory=list)
    timeout_s: float = LONG_S
    calls: AuthCalls = field(init=False)

    def __post_init__(self) -> None:
        """Create the calls."""
        self.calls = AuthCalls(self.clock, timeout_s=self.timeout_s, refused=self.refused.append, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Advance the clock instead."""
        self.clock.advance(timedelta(seconds=seconds))

    def guess(self, number: int, token_id: UUID = KNOWN) -> asyncio.Task[Fetched[Principal]]:
        """Begin to try a wrong secret."""
        return asyncio.create_task(self.calls.verify_token(b"%032d" % number, token_id, self.auth.refuse))


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_guesses_at_a_known_id_use_few_calls_and_do_not_delay_a_live_token() -> None:
    """Of a thousand guesses, only the free ones and the lane's eight are in flight.

    A token seen for the first time passes.
    """
    scene = Scene(timeout_s=0.05)
    guesses = [scene.guess(number) for number in range(1_000)]
    await settle()

    assert scene.auth.asked == 6 + LIMITS[Share.LANE]
    assert await scene.calls.verify_token(REAL, UUID(int=8), scene.auth.confirm) == WHOSE
    assert await scene.calls.verify_token(REAL, UUID(int=8), scene.auth.confirm) == WHOSE
    scene.auth.let_go.set()
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {InvalidTokenError, TooManyGuessesError}
    assert all(o.retry_after_s == 1 for o in outcomes if isinstance(o, ServiceDegradedError))
    assert set(scene.refused) == {Share.LANE}


async def test_the_lane_has_a_rate_limit() -> None:
    """The lane makes fifty calls per second, however quickly auth refuses. A call that times out is refused."""
    scene = Scene(timeout_s=0.05)
    scene.auth.let_go.set()
    began_ns = scene.clock.monotonic_ns()
    for batch in range(20):
        await asyncio.gather(*(scene.guess(100 * batch + number) for number in range(100)), return_exceptions=True)

    took_s = (scene.clock.monotonic_ns() - began_ns) / 1e9
    assert scene.auth.asked <= 6 + LANE_BURST + 50 * took_s + 3  # 3 have their turn at the end and wait for it
    assert len(scene.refused) == 2_000 - scene.auth.asked


async def test_a_proven_token_is_verified_at_once_during_guesses_at_its_id() -> None:
    """An attacker cannot push the token's owner into the lane."""
    scene = Scene(timeout_s=0.0)
    await scene.calls.verify_token(REAL, KNOWN, scene.auth.confirm)
    guesses = [scene.guess(number) for number in range(100)]
    await settle()

    for _ in range(100):
        assert await scene.calls.verify_token(REAL, KNOWN, scene.auth.confirm) == WHOSE
    scene.auth.let_go.set()
    await asyncio.gather(*guesses, return_exceptions=True)


async def test_lookups_of_made_up_agents_do_not_delay_other_agents() -> None:
    """Neither another organization's new agent nor a known agent waits for them."""
    scene = Scene()
    agent: Fetched[Agent | None] = Fetched(Agent(AGENT, ORG, AgentStatus.ACTIVE), unknown_epoch(0))

    async def found() -> Fetched[Agent | None]:
        return agent

    await scene.calls.verify_agent((1, 1), found)
    asked = [asyncio.create_task(scene.calls.verify_agent((1, n), scene.auth.no_agent)) for n in range(2, 102)]
    await settle()
    assert scene.auth.asked == MAX_AGENT_CALLS_PER_ORG
    assert await scene.calls.verify_agent((1, 1), found) == agent
    assert await scene.calls.verify_agent((2, 1), found) == agent
    scene.auth.let_go.set()
    assert await asyncio.gather(*asked) == [ABSENT] * 100


async def test_organizations_take_turns_in_the_calls_for_agents() -> None:
    """If made-up agents of several organizations fill the share, another organization waits for at most one call."""
    scene = Scene()
    full = LIMITS[Share.AGENT] // MAX_AGENT_CALLS_PER_ORG
    asked = [
        asyncio.create_task(scene.calls.verify_agent((org, n), scene.auth.no_agent))
        for org in range(full)
        for n in range(20)
    ]
    await settle()
    assert scene.auth.asked == LIMITS[Share.AGENT]
    other = asyncio.create_task(scene.calls.verify_agent((full, 1), scene.auth.no_agent))
    await settle()
    assert not other.done()
    scene.auth.let_go.set()
    assert await asyncio.gather(other, *asked) == [ABSENT] * (20 * full + 1)


async def test_a_call_that_times_out_in_the_queue_is_refused_with_a_retry_delay() -> None:
    """The response is 503 for an agent as for a token. The slots become free again."""
    scene = Scene(timeout_s=0.001)
    asked = [asyncio.create_task(scene.calls.verify_agent((1, n), scene.auth.no_agent)) for n in range(40)]
    await asyncio.wait(asked[MAX_AGENT_CALLS_PER_ORG:])

    for late in asked[MAX_AGENT_CALLS_PER_ORG:]:
        with pytest.raises(TooManyLookupsError) as raised:
            await late
        assert raised.value.retry_after_s == 1
    scene.auth.let_go.set()
    assert await asyncio.gather(*asked[:MAX_AGENT_CALLS_PER_ORG]) == [ABSENT] * MAX_AGENT_CALLS_PER_ORG
    assert await scene.calls.verify_agent((1, 1), scene.auth.no_agent) == ABSENT


async def test_lookups_of_absent_agents_have_a_rate_limit() -> None:
    """It is fifty per second and organization. Agents that exist do not count."""
    scene = Scene(timeout_s=0.05)
    scene.auth.let_go.set()
    agent: Fetched[Agent | None] = Fetched(Agent(AGENT, ORG, AgentStatus.ACTIVE), unknown_epoch(0))

    async def found() -> Fetched[Agent | None]:
        return agent

    for number in range(1_000):
        assert await scene.calls.verify_agent((1, 10_000 + number), found) == agent
    began_ns = scene.clock.monotonic_ns()
    refused = 0
    for number in range(1_000):
        try:
            await scene.calls.verify_agent((1, number), scene.auth.no_agent)
        except TooManyLookupsError:
            refused += 1
            scene.clock.advance(timedelta(milliseconds=1))
        assert await scene.calls.verify_agent((2, number), found) == agent

    took_s = (scene.clock.monotonic_ns() - began_ns) / 1e9
    assert refused + scene.auth.asked == 1_000
    assert scene.auth.asked <= ABSENT_AGENTS_BURST + ABSENT_AGENTS_PER_SECOND * took_s + 3  # 3 more wait for their turn
    assert set(scene.refused) <= {Share.AGENT}


async def test_each_group_has_reserved_calls() -> None:
    """A quarter of all calls is reserved for proven tokens and agents, and a quarter for the others."""
    shares = CallShares()
    unproven = [share for share in Share if share is not Share.PROVEN]
    assert sum(LIMITS[share] for share in unproven) + 32 == MAX_CALLS == LIMITS[Share.PROVEN] + 32
    for share in unproven:
        for tenant in range(LIMITS[share]):
            assert await shares.enter(share, tenant, 0)

    for _ in range(32):
        assert await shares.enter(Share.PROVEN, 1, 0)
    assert not await shares.enter(Share.PROVEN, 1, 0)
    for share in unproven:
        assert not await shares.enter(share, 1, 0)


async def test_waiting_organizations_take_turns() -> None:
    """An organization that waits behind a hundred calls of another is served second."""
    shares, order = CallShares(), list[int]()
    for _ in range(LIMITS[Share.LANE]):
        assert await shares.enter(Share.LANE, 1, LONG_S)

    async def wait(tenant: int) -> None:
        assert await shares.enter(Share.LANE, tenant, LONG_S)
        order.append(tenant)

    waiting = [asyncio.create_task(wait(tenant)) for tenant in [1] * 100 + [2]]
    await settle()
    for _ in range(101):
        shares.leave(Share.LANE, 1)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order.index(2) == 1
    assert shares.in_flight(Share.LANE) == LIMITS[Share.LANE]


async def test_a_call_that_is_cancelled_in_the_queue_uses_no_slot() -> None:
    """It can be cancelled before its turn or at the moment of its turn."""
    shares = CallShares()
    for _ in range(LIMITS[Share.LANE]):
        assert await shares.enter(Share.LANE, 1, LONG_S)
    before, at_its_turn = (asyncio.create_task(shares.enter(Share.LANE, 1, LONG_S)) for _ in range(2))
    await settle()
    before.cancel()
    await settle()
    shares.leave(Share.LANE, 1)
    at_its_turn.cancel()
    assert await asyncio.gather(before, at_its_turn, return_exceptions=True)
    assert shares.in_flight(Share.LANE) == LIMITS[Share.LANE] - 1


async def test_the_number_of_waiting_calls_is_bounded() -> None:
    """A call beyond the bound is refused at once."""
    shares = CallShares()
    for _ in range(LIMITS[Share.LANE]):
        assert await shares.enter(Share.LANE, 1, LONG_S)
    waiting = [asyncio.create_task(shares.enter(Share.LANE, 1, LONG_S)) for _ in range(MAX_WAITING_PER_TENANT)]
    await settle()

    assert not await shares.enter(Share.LANE, 1, LONG_S)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_outage_does_not_count_as_a_guess() -> None:
    """The owner of a token that auth could not verify is not treated as a guesser."""
    scene = Scene()

    async def down() -> Fetched[Principal]:
        raise ServiceDegradedError

    for _ in range(20):
        with pytest.raises(ServiceDegradedError):
            await scene.calls.verify_token(REAL, KNOWN, down)
    assert await scene.calls.verify_token(REAL, KNOWN, scene.auth.confirm) == WHOSE
    assert scene.refused == []
