"""The caches of identity: lifetimes, keys, and the lookups that cause a call."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.chat_scene import (
    AGENT,
    DIRECTIVE,
    MOMENT,
    ORG,
    OTHER_AGENT,
    OTHER_ORG,
    TOKEN,
    Caches,
    ScriptedAgents,
    ScriptedTokens,
    principal,
)
from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.ids import SequentialIds
from ibex.domain.directives.cache import directive_policy
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    InvalidTokenError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.cache import FreshCache
from ibex.domain.freshness.kinds import Epoch, Kind, unknown_epoch
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken

if TYPE_CHECKING:
    from ibex.domain.freshness.cache import Entry
    from ibex.domain.identity.cache import AgentKey
    from ibex.domain.identity.model import Principal

ACTIVE = Agent(AGENT, ORG, AgentStatus.ACTIVE)


class Filter(UnknownTokens):
    """A filter that refuses the given tokens, as if a Bloom filter excluded them."""

    def __init__(self, *excluded: UUID) -> None:
        self._excluded = set(excluded)
        self.asked: list[UUID] = []

    async def refuse(self, token_id: UUID) -> None:
        """Refuse the token if it is excluded."""
        self.asked.append(token_id)
        if token_id in self._excluded:
            raise InvalidTokenError


def read(value: str | None = "e", at_ns: int = 0) -> Epoch:
    """Return a reading of the epoch."""
    return Epoch(value, was_read=True, asked_ns=at_ns)


@pytest.mark.parametrize(
    ("remaining_s", "lifetime_s"),
    [(None, 30.0), (3_600.0, 30.0), (35.0, 30.0), (34.0, 29.0), (6.0, 1.0), (5.0, 0.0), (1.0, -4.0)],
)
def test_a_principal_is_cached_for_a_shorter_time_before_its_token_expires(
    remaining_s: float | None, lifetime_s: float
) -> None:
    """The lifetime is half a minute, and ends five seconds before the expiry at the latest."""
    policy = token_policy(stale_if_error_s=300)

    assert policy.lifetime_s(principal(remaining_s=remaining_s)) == lifetime_s
    assert policy.outlives_s(principal(remaining_s=remaining_s)) == remaining_s
    assert (policy.stale_if_error_s, policy.last_known_s) == (300, 0)


def test_agents_and_directives_have_their_own_cache_policies() -> None:
    """Agents have that of tokens, directives the configured one. Stale-if-error never serves a directive."""
    agents, directives = agent_policy(stale_if_error_s=300), directive_policy(60)

    assert (agents.lifetime_s(ACTIVE), agents.stale_if_error_s, agents.outlives_s(ACTIVE)) == (30.0, 300, None)
    assert (directives.lifetime_s(None), directives.lifetime_s(DIRECTIVE)) == (60, 60)
    assert (directives.stale_if_error_s, directives.last_known_s) == (0.0, 0.0)


async def test_the_cache_contains_no_token() -> None:
    """The key is the SHA-256 digest. The cache contains neither the token nor its secret."""
    clock, entries = ManualClock(), dict[bytes, "Entry[Principal]"]()
    cache = FreshCache(Kind.TOKENS, entries, token_policy(stale_if_error_s=300), Validity(), clock, Caches(clock))
    tokens = CachedTokens(ScriptedTokens(principal()), Filter(), cache, Caches(clock).calls)

    fetched = await tokens.look_up(TOKEN.reveal())
    await tokens.validate(fetched, read())
    kept = await tokens.look_up(TOKEN.reveal())

    assert list(entries) == [hashlib.sha256(TOKEN.reveal().encode()).digest()]
    assert (fetched.from_cache, kept.from_cache) == (False, True)
    shown = repr((cache.__dict__, entries, fetched, kept))
    assert TOKEN.reveal() not in shown
    assert TOKEN.reveal()[46:80] not in shown


async def test_a_malformed_token_is_not_looked_up() -> None:
    """A malformed token is invalid. Neither the filter nor the verifier is called."""
    verifier, unknown = ScriptedTokens(principal()), Filter()
    tokens = Caches(ManualClock()).tokens(verifier, unknown)

    for text in ("", "sk-1", TOKEN.reveal()[:-1], TOKEN.reveal() + " ", "\xff", "\ud800", "x" * 100_000):
        with pytest.raises(InvalidTokenError):
            await tokens.look_up(text)

    assert verifier.asked == unknown.asked == []


async def test_another_secret_with_the_same_id_does_not_match_the_cached_entry() -> None:
    """A client that knows the public id does not get the owner's entry."""
    clock, verifier = ManualClock(), ScriptedTokens(principal())
    tokens = Caches(clock).tokens(verifier)
    await tokens.look_up(TOKEN.reveal())
    verifier.answer = InvalidTokenError()

    with pytest.raises(InvalidTokenError):
        await tokens.look_up(PersonalAccessToken.issue(TOKEN.token_id, bytes(32)).reveal())

    verifier.answer = principal()
    assert (await tokens.look_up(TOKEN.reveal())).from_cache
    assert verifier.asked == [TOKEN.token_id] * 2


async def test_a_token_that_the_filter_excludes_causes_no_call() -> None:
    """It is invalid, and the verifier is not called."""
    verifier, unknown = ScriptedTokens(principal()), Filter(TOKEN.token_id)
    tokens = Caches(ManualClock()).tokens(verifier, unknown)

    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await tokens.look_up(TOKEN.reveal())

    assert verifier.asked == []
    assert unknown.asked == [TOKEN.token_id] * 2


async def test_a_cached_token_is_not_checked_against_the_filter() -> None:
    """The filter only checks tokens that are about to be verified."""
    verifier, unknown = ScriptedTokens(principal()), Filter()
    tokens = Caches(ManualClock()).tokens(verifier, unknown)

    for _ in range(4):
        assert await tokens.validate(await tokens.look_up(TOKEN.reveal()), unknown_epoch(0)) == principal()

    assert verifier.asked == unknown.asked == [TOKEN.token_id]


async def test_a_revoked_token_is_invalid_as_soon_as_the_epoch_differs() -> None:
    """Its entry is removed, so that it is not served while no epoch can be read."""
    clock = ManualClock()
    epochs = InMemoryEpochs(clock, SequentialIds())
    verifier = ScriptedTokens(principal(), epochs=epochs)
    tokens = Caches(clock).tokens(verifier)
    await tokens.validate(await tokens.look_up(TOKEN.reveal()), await epochs.read_or_create(ORG))
    verifier.answer = InvalidTokenError()
    await epochs.replace(ORG)

    cached = await tokens.look_up(TOKEN.reveal())
    assert cached.from_cache
    with pytest.raises(InvalidTokenError):
        await tokens.validate(cached, epochs.read(ORG))
    with pytest.raises(InvalidTokenError):
        await tokens.look_up(TOKEN.reveal())


async def test_a_token_is_served_stale_during_an_outage_but_never_after_its_expiry() -> None:
    """The epoch is unchanged the whole time, but the token expires nevertheless."""
    clock = ManualClock()
    epochs = InMemoryEpochs(clock, SequentialIds())
    verifier = ScriptedTokens(principal(remaining_s=60.0), epochs=epochs)
    tokens = Caches(clock).tokens(verifier)
    await tokens.look_up(TOKEN.reveal())
    verifier.answer = TokenSourceUnavailableError()

    clock.advance(timedelta(seconds=60) - MOMENT)
    lookup = await tokens.look_up(TOKEN.reveal())
    assert await tokens.validate(lookup, epochs.read(ORG)) == principal(remaining_s=60.0)
    assert lookup.is_stale

    clock.advance(MOMENT)
    with pytest.raises(TokenSourceUnavailableError):
        await tokens.validate(await tokens.look_up(TOKEN.reveal()), epochs.read(ORG))


async def test_agents_are_cached_by_organization_and_id() -> None:
    """The same id in two organizations belongs to two entries."""
    verifier = ScriptedAgents(ACTIVE)
    agents = Caches(ManualClock()).agents(verifier)

    for _ in range(2):
        for of in ((ORG, AGENT), (OTHER_ORG, AGENT), (ORG, OTHER_AGENT)):
            await agents.validate(await agents.look_up(*of), unknown_epoch(0))

    assert verifier.asked == [(ORG, AGENT), (OTHER_ORG, AGENT), (ORG, OTHER_AGENT)]


async def test_an_event_invalidates_the_entries_of_its_organization_and_kind() -> None:
    """It invalidates all agents of the organization, but neither its tokens nor other organizations' agents."""
    caches = Caches(ManualClock())
    verifier, token_verifier = ScriptedAgents(ACTIVE), ScriptedTokens(principal())
    agents, tokens = caches.agents(verifier), caches.tokens(token_verifier)

    async def request() -> None:
        await tokens.validate(await tokens.look_up(TOKEN.reveal()), unknown_epoch(0))
        for of in ((ORG, AGENT), (ORG, OTHER_AGENT), (OTHER_ORG, AGENT)):
            await agents.validate(await agents.look_up(*of), unknown_epoch(0))

    await request()
    verifier.asked.clear()
    caches.event(Kind.AGENTS)
    await request()

    assert verifier.asked == [(ORG, AGENT), (ORG, OTHER_AGENT)]
    assert len(token_verifier.asked) == 1


async def test_absent_agents_never_evict_a_live_one() -> None:
    """Absent agents are stored separately. An agent that is created or removed is in one place only."""
    clock = ManualClock()
    live: dict[AgentKey, Entry[Agent | None]] = {}
    absent: dict[AgentKey, Entry[Agent | None]] = {}
    caches, policy = Caches(clock), agent_policy(stale_if_error_s=300)
    cache = FreshCache(Kind.AGENTS, live, policy, caches.validity, clock, caches, absent=absent)
    source = ScriptedAgents(ACTIVE)
    agents = CachedAgents(source, cache, caches.calls, clock)
    found = await agents.look_up(ORG, AGENT)
    assert (found.value, len(live), len(absent)) == (ACTIVE, 1, 0)

    source.answer = AgentNotAuthorizedError()
    for number in range(100):
        assert (await agents.look_up(OTHER_ORG, UUID(int=number))).value is None
        clock.advance(timedelta(milliseconds=20))  # lookups of absent agents have a rate limit
    assert (len(live), len(absent)) == (1, 100)
    assert agents.cached(OTHER_ORG, UUID(int=7)) is not None
    assert agents.cached(OTHER_ORG, UUID(int=100)) is None

    lookup = await agents.look_up(ORG, AGENT)
    caches.event(Kind.AGENTS)
    with pytest.raises(AgentNotAuthorizedError):
        await agents.validate(lookup, unknown_epoch(0))
    assert (len(live), len(absent)) == (0, 101)
    source.answer = ACTIVE
    caches.event(Kind.AGENTS)
    assert await agents.validate(await agents.look_up(ORG, AGENT), unknown_epoch(0)) == ACTIVE
    assert (len(live), len(absent)) == (1, 100)


def test_an_absence_is_not_served_stale() -> None:
    """The agent may have been created since. The request gets 503, not 403."""
    assert agent_policy(stale_if_error_s=300).outlives_s(None) == 0


async def test_a_guess_does_not_affect_the_entry_of_the_real_token() -> None:
    """A guess has another digest, so the real token is served from the cache before, during and after it."""
    clock = ManualClock()
    source, caches = ScriptedTokens(principal()), Caches(clock)
    tokens = caches.tokens(source)
    await tokens.look_up(TOKEN.reveal())
    source.asked.clear()
    source.answer = InvalidTokenError()

    for number in range(12):
        guess = PersonalAccessToken.issue(TOKEN.token_id, bytes([number]) * 32)
        with pytest.raises(InvalidTokenError):
            await tokens.look_up(guess.reveal())
        assert await tokens.validate(await tokens.look_up(TOKEN.reveal()), unknown_epoch(0)) == principal()

    assert len(source.asked) == 12
