"""How long identity is remembered, under which keys, and what costs a call."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.chat_scene import (
    AGENT,
    DIRECTIVE,
    ORG,
    OTHER_AGENT,
    OTHER_ORG,
    TOKEN,
    Caches,
    ScriptedAgents,
    ScriptedDirectives,
    ScriptedTokens,
    principal,
)
from ibex.adapters.memory.clock import ManualClock
from ibex.domain.cached_identity import (
    CachedAgents,
    CachedTokens,
    agent_lifetimes,
    directive_lifetimes,
    token_lifetimes,
)
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.fresh_cache import FreshCache
from ibex.domain.freshness import Kind, News
from ibex.domain.identity import Agent, AgentStatus, PersonalAccessToken

if TYPE_CHECKING:
    from ibex.domain.cached_identity import AgentKey
    from ibex.domain.directives import Directive
    from ibex.domain.freshness import Entry
    from ibex.domain.identity import Principal

ACTIVE = Agent(AGENT, ORG, AgentStatus.ACTIVE)


@dataclass(slots=True)
class Filter:
    """A ``KnownTokens`` that excludes what it is told to."""

    excluded: set[UUID] = field(default_factory=set)
    asked: list[UUID] = field(default_factory=list)

    async def excludes(self, token_id: UUID) -> bool:
        """Tell whether it was told to."""
        self.asked.append(token_id)
        return token_id in self.excluded


def news(at_ns: int = 0, generation: str = "g") -> News:
    """Return news under a lease that always is the same."""
    return News(at_ns, "lease", dict.fromkeys(Kind, generation))


@pytest.mark.parametrize(
    ("expires_in_s", "lifetime_s"),
    [(None, 30.0), (3_600.0, 30.0), (35.0, 30.0), (34.0, 29.0), (6.0, 1.0), (5.0, 0.0), (1.0, -4.0), (-1.0, -6.0)],
)
def test_a_principal_is_remembered_less_before_its_token_expires(expires_in_s: float | None, lifetime_s: float) -> None:
    """Half a minute, and no longer than five seconds before."""
    clock = ManualClock()
    expires_at = None if expires_in_s is None else clock.now() + timedelta(seconds=expires_in_s)

    lifetimes = token_lifetimes(clock, while_source_is_down_s=300)

    assert lifetimes.of(principal(expires_at=expires_at)) == lifetime_s
    assert lifetimes.while_source_is_down_s == 300


def test_a_principal_never_outlives_its_token() -> None:
    """Live a microsecond before, not at the very moment; one without an expiry always is."""
    clock = ManualClock()
    may_outlive = token_lifetimes(clock, while_source_is_down_s=300).may_outlive
    brief = principal(expires_at=clock.now() + timedelta(minutes=1))

    clock.advance(timedelta(seconds=59, microseconds=999_999))
    assert may_outlive(brief)
    clock.advance(timedelta(microseconds=1))
    assert not may_outlive(brief)
    assert may_outlive(principal())


def test_agents_and_directives_are_remembered_as_said() -> None:
    """Agents like tokens, directives as configured, and no directive is served stale by this rule."""
    agents, directives = agent_lifetimes(while_source_is_down_s=300), directive_lifetimes(60)

    assert (agents.of(ACTIVE), agents.while_source_is_down_s, agents.may_outlive(ACTIVE)) == (30.0, 300, True)
    assert (directives.of(None), directives.of(DIRECTIVE), directives.while_source_is_down_s) == (60, 60, 0.0)


async def test_no_token_is_in_the_cache() -> None:
    """Its key is the SHA-256 digest; nothing that the cache holds has the token or its secret."""
    clock, entries = ManualClock(), dict[bytes, "Entry[Principal]"]()
    lifetimes = token_lifetimes(clock, while_source_is_down_s=300)
    cache = FreshCache(Kind.TOKENS, entries, lifetimes, clock, Caches(clock))
    tokens = CachedTokens(ScriptedTokens(principal()), Filter(), cache, Caches(clock).calls)

    fetched = await tokens.recall(TOKEN.reveal())
    await tokens.confirm(fetched, news())
    kept = await tokens.recall(TOKEN.reveal())

    assert list(entries) == [hashlib.sha256(TOKEN.reveal().encode()).digest()]
    assert (fetched.from_cache, kept.from_cache) == (False, True)
    shown = repr((cache.__dict__, entries, fetched, kept))
    assert TOKEN.reveal() not in shown
    assert TOKEN.reveal()[46:80] not in shown


async def test_what_is_no_token_is_not_looked_for() -> None:
    """Whatever a client sent: invalid, and neither the filter nor the verifier is asked."""
    verifier, known = ScriptedTokens(principal()), Filter()
    caches = Caches(ManualClock())
    tokens = caches.tokens(verifier, known)

    for text in ("", "sk-1", TOKEN.reveal()[:-1], TOKEN.reveal() + " ", "\xff", "\ud800", "x" * 100_000):
        with pytest.raises(InvalidTokenError):
            await tokens.recall(text)

    assert verifier.asked == []


async def test_another_secret_under_the_same_id_is_another_entry() -> None:
    """Who knows the id, which is public, does not get the owner's entry."""
    clock, verifier = ManualClock(), ScriptedTokens(principal())
    tokens = Caches(clock).tokens(verifier)
    await tokens.recall(TOKEN.reveal())
    verifier.answer = InvalidTokenError()

    with pytest.raises(InvalidTokenError):
        await tokens.recall(PersonalAccessToken.issue(TOKEN.token_id, bytes(32)).reveal())

    verifier.answer = principal()
    assert (await tokens.recall(TOKEN.reveal())).from_cache
    assert verifier.asked == [TOKEN.token_id] * 2


async def test_a_token_that_nobody_has_costs_no_call() -> None:
    """The filter says so: invalid, and the verifier is not asked."""
    verifier, known = ScriptedTokens(principal()), Filter({TOKEN.token_id})
    tokens = Caches(ManualClock()).tokens(verifier, known)

    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await tokens.recall(TOKEN.reveal())

    assert verifier.asked == []
    assert known.asked == [TOKEN.token_id] * 2


async def test_a_remembered_token_costs_no_look_at_the_filter() -> None:
    """Only who is about to call looks."""
    clock, verifier, known = ManualClock(), ScriptedTokens(principal()), Filter()
    tokens = Caches(clock).tokens(verifier, known)

    for _ in range(4):
        assert await tokens.confirm(await tokens.recall(TOKEN.reveal()), news(clock.monotonic_ns())) == principal()

    assert verifier.asked == known.asked == [TOKEN.token_id] * 2


async def test_a_revoked_token_is_invalid_as_soon_as_the_news_say_so() -> None:
    """And forgotten, so that it is not served when there are no news."""
    clock, verifier = ManualClock(), ScriptedTokens(principal())
    tokens = Caches(clock).tokens(verifier)
    for _ in range(2):
        await tokens.confirm(await tokens.recall(TOKEN.reveal()), news())
    verifier.answer = InvalidTokenError()

    recalled = await tokens.recall(TOKEN.reveal())
    assert recalled.from_cache
    with pytest.raises(InvalidTokenError):
        await tokens.confirm(recalled, news(generation="h"))
    with pytest.raises(InvalidTokenError):
        await tokens.recall(TOKEN.reveal())


async def test_a_token_is_served_while_auths_store_is_down_but_never_beyond_its_expiry() -> None:
    """RecentlyConfirmed by the news all along, and yet over when it is over."""
    clock = ManualClock()
    verifier = ScriptedTokens(principal(expires_at=clock.now() + timedelta(seconds=60)))
    tokens = Caches(clock).tokens(verifier)
    for _ in range(2):
        await tokens.confirm(await tokens.recall(TOKEN.reveal()), news())
    verifier.answer = TokenSourceUnavailableError()

    clock.advance(timedelta(seconds=59))
    recalled = await tokens.recall(TOKEN.reveal())
    await tokens.confirm(recalled, news(clock.monotonic_ns()))
    assert recalled.is_stale

    clock.advance(timedelta(seconds=1))
    with pytest.raises(TokenSourceUnavailableError):
        await tokens.confirm(await tokens.recall(TOKEN.reveal()), news(clock.monotonic_ns()))


async def test_agents_are_kept_by_organization() -> None:
    """What one organization may act as says nothing of another."""
    verifier = ScriptedAgents(ACTIVE)
    agents = Caches(ManualClock()).agents(verifier)

    for of in ((ORG, AGENT), (OTHER_ORG, AGENT), (ORG, OTHER_AGENT), (ORG, AGENT)):
        await agents.confirm(await agents.recall(*of), news())

    assert verifier.asked == [(ORG, AGENT), (OTHER_ORG, AGENT), (ORG, OTHER_AGENT), (ORG, AGENT)]
    await agents.confirm(await agents.recall(ORG, AGENT), news())
    assert len(verifier.asked) == 4


async def test_directives_and_that_there_is_none_are_kept() -> None:
    """By organization and agent, until the news are others."""
    source = ScriptedDirectives(None)
    directives = Caches(ManualClock()).directives(source)

    assert [await directives.active(ORG, AGENT, news()) for _ in range(3)] == [None] * 3
    assert source.asked == [(ORG, AGENT)]
    source.answer = DIRECTIVE
    assert await directives.active(ORG, OTHER_AGENT, news()) == DIRECTIVE
    assert await directives.active(ORG, AGENT, news()) is None
    assert await directives.active(ORG, AGENT, news(generation="h")) == DIRECTIVE


def lost_news(at_ns: int = 0) -> News:
    """Return what is known where Redis does not answer."""
    return News(at_ns, None, {})


async def test_what_one_worker_looked_up_the_others_need_not() -> None:
    """As long as the stamp is the same; after a change each of them asks again, or finds what another has asked."""
    source = ScriptedDirectives(DIRECTIVE)
    first, second = Caches(ManualClock()), Caches(ManualClock())
    second.shared_directives = first.shared_directives
    for worker in (first, second):
        assert await worker.directives(source).active(ORG, AGENT, news()) == DIRECTIVE
    assert len(source.asked) == 1

    source.answer = None
    for worker in (first, second):
        assert await worker.directives(source).active(ORG, AGENT, news(generation="h")) is None
    assert len(source.asked) == 2


async def test_without_a_stamp_nothing_is_shared() -> None:
    """What cannot be proven fresh is not put where others would take it for that."""
    source = ScriptedDirectives(DIRECTIVE)
    first, second = Caches(ManualClock()), Caches(ManualClock())
    second.shared_directives = first.shared_directives
    for worker in (first, second):
        await worker.directives(source).active(ORG, AGENT, lost_news())
    assert len(source.asked) == 2


@pytest.mark.parametrize("known", [DIRECTIVE, None])
async def test_the_last_text_known_holds_for_five_minutes(known: Directive | None) -> None:
    """Where neither the others nor the source can be asked; that there is none counts as known. Then it is refused."""
    clock = ManualClock()
    caches = Caches(clock)
    source = ScriptedDirectives(known)
    directives = caches.directives(source)
    assert await directives.active(ORG, AGENT, news(clock.monotonic_ns())) == known
    source.answer = ServiceDegradedError()

    clock.advance(timedelta(seconds=299))
    assert await directives.active(ORG, AGENT, lost_news(clock.monotonic_ns())) == known
    assert caches.heard[-1] == ("stale", Kind.DIRECTIVES)
    assert await directives.active(ORG, AGENT, news(clock.monotonic_ns(), generation="h")) == known
    clock.advance(timedelta(seconds=2))
    with pytest.raises(ServiceDegradedError):
        await directives.active(ORG, AGENT, lost_news(clock.monotonic_ns()))


async def test_a_directive_of_which_nothing_is_known_is_not_skipped() -> None:
    """The request is refused rather than sent on without its rule."""
    directives = Caches(ManualClock()).directives(ScriptedDirectives(ServiceDegradedError()))
    with pytest.raises(ServiceDegradedError):
        await directives.active(ORG, AGENT, news())


async def test_after_an_outage_the_source_is_asked_again() -> None:
    """At once: the last text known is for as long as nobody answers."""
    clock = ManualClock()
    source = ScriptedDirectives(DIRECTIVE)
    directives = Caches(clock).directives(source)
    await directives.active(ORG, AGENT, news(clock.monotonic_ns()))
    clock.advance(timedelta(seconds=10))
    source.answer = ServiceDegradedError()
    await directives.active(ORG, AGENT, lost_news(clock.monotonic_ns()))
    source.answer = None
    assert await directives.active(ORG, AGENT, lost_news(clock.monotonic_ns())) is None


async def test_absent_agents_never_make_a_live_one_go() -> None:
    """They are kept apart; and one that is created or removed is in one place only."""
    clock = ManualClock()
    live: dict[AgentKey, Entry[Agent | None]] = {}
    absent: dict[AgentKey, Entry[Agent | None]] = {}
    cache = FreshCache(
        Kind.AGENTS, live, agent_lifetimes(while_source_is_down_s=300), clock, Caches(clock), absent=absent
    )
    source = ScriptedAgents(ACTIVE)
    agents = CachedAgents(source, cache, Caches(clock).calls)
    found = await agents.recall(ORG, AGENT)
    assert (found.value, len(live), len(absent)) == (ACTIVE, 1, 0)

    source.answer = AgentNotAuthorizedError()
    for number in range(100):
        assert (await agents.recall(OTHER_ORG, UUID(int=number))).value is None
    assert (len(live), len(absent)) == (1, 100)
    assert agents.kept(OTHER_ORG, UUID(int=7)) is not None
    assert agents.kept(OTHER_ORG, UUID(int=100)) is None

    kept = await agents.recall(ORG, AGENT)
    with pytest.raises(AgentNotAuthorizedError):
        await agents.confirm(kept, news(generation="another"))
    assert (len(live), len(absent)) == (0, 101)
    source.answer = ACTIVE
    assert await agents.confirm(await agents.recall(ORG, AGENT), news(generation="a third")) == ACTIVE
    assert (len(live), len(absent)) == (1, 100)


def test_an_absence_is_not_served_while_the_source_is_down() -> None:
    """The agent may have been created meanwhile: that cannot be known, and is no refusal."""
    assert not agent_lifetimes(while_source_is_down_s=300).may_outlive(None)


async def test_a_guess_disturbs_no_entry_of_the_real_token() -> None:
    """It has another digest: the real one is served from memory before, during and after."""
    clock = ManualClock()
    source, caches = ScriptedTokens(principal()), Caches(clock)
    tokens = caches.tokens(source)
    await tokens.confirm(await tokens.recall(TOKEN.reveal()), news())
    await tokens.confirm(await tokens.recall(TOKEN.reveal()), news())
    source.asked.clear()
    source.answer = InvalidTokenError()

    for number in range(12):
        guess = PersonalAccessToken.issue(TOKEN.token_id, bytes([number]) * 32)
        with pytest.raises(InvalidTokenError):
            await tokens.recall(guess.reveal())
        assert (await tokens.confirm(await tokens.recall(TOKEN.reveal()), news())) == principal()

    assert len(source.asked) == 12
