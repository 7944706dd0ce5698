"""Tokens, agents and directives as a worker remembers them, fetched anew when the news say so (spec 5)."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from ibex.domain.errors import AgentNotAuthorizedError, InvalidTokenError
from ibex.domain.fresh_cache import Lifetimes, Recalled
from ibex.domain.freshness import Kind
from ibex.domain.identity import PersonalAccessToken
from ibex.domain.shared_directives import SharedDirective

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.auth_calls import AuthCalls
    from ibex.domain.clock import Clock
    from ibex.domain.directives import Directive, DirectiveLookup
    from ibex.domain.fresh_cache import FreshCache
    from ibex.domain.freshness import News
    from ibex.domain.identity import Agent, AgentVerifier, Principal, TokenVerifier
    from ibex.domain.known_tokens import KnownTokens
    from ibex.domain.shared_directives import SharedDirectives

TokenDigest: TypeAlias = bytes
AgentKey: TypeAlias = "tuple[int, int]"
"""Organization and agent as the numbers that their ids are, which are hashed and compared at a tenth of the price."""
RecalledPrincipal: TypeAlias = "Recalled[TokenDigest, Principal]"
RecalledAgent: TypeAlias = "Recalled[AgentKey, Agent | None]"
"""The value is None if the organization has no such agent."""

ENTRY_LIFETIME_S: Final = 30.0
_BEFORE_EXPIRY_S: Final = 5.0


def token_lifetimes(clock: Clock, *, while_source_is_down_s: float) -> Lifetimes[Principal]:
    """Return how long principals are remembered: 30 s, and less before the token expires."""

    def remaining_s(principal: Principal) -> float:
        if principal.expires_at is None:
            return ENTRY_LIFETIME_S
        return min(ENTRY_LIFETIME_S, (principal.expires_at - clock.now()).total_seconds() - _BEFORE_EXPIRY_S)

    def is_live(principal: Principal) -> bool:
        return principal.expires_at is None or clock.now() < principal.expires_at

    return Lifetimes(remaining_s, while_source_is_down_s, is_live)


def agent_lifetimes(*, while_source_is_down_s: float) -> Lifetimes[Agent | None]:
    """Return the lifetimes of cached agents. The absence of an agent is cached too, but not served stale."""
    return Lifetimes(lambda _: ENTRY_LIFETIME_S, while_source_is_down_s, lambda agent: agent is not None)


def directive_lifetimes(seconds: float, *, last_known_s: float = 0.0) -> Lifetimes[Directive | None]:
    """Return how long directives are remembered, and that an agent has none.

    Where nobody can be asked any more, what was known last holds for ``last_known_s`` after it was last confirmed: an
    agent's rule is rather an old one than none (spec 7).
    """
    return Lifetimes(lambda _: seconds, last_known_s=last_known_s)


class CachedTokens:
    """Principals by the digest of their token; the token itself is not kept."""

    def __init__(
        self, verifier: TokenVerifier, known: KnownTokens, cache: FreshCache[TokenDigest, Principal], calls: AuthCalls
    ) -> None:
        self._verifier = verifier
        self._known = known
        self._cache = cache
        self._calls = calls

    async def recall(self, text: str) -> RecalledPrincipal:
        """Return what is known of the token that a text is. Raises as ``TokenVerifier`` does, also for what is none.

        A token that nobody has costs no call; one that was verified is not taken apart again to be looked up.
        """
        digest = _digest(text)
        fetch = partial(self._fetch, digest, text)
        recalled = self._cache.kept(digest, fetch)
        if recalled is None:
            _parsed(text)  # what is no token is not worth a fetch
            recalled = await self._cache.recall(digest, fetch)
        return recalled

    def is_recent(self, recalled: RecalledPrincipal) -> bool:
        """Return whether the token was confirmed recently enough to be used without asking for changes."""
        return self._cache.is_recent(recalled)

    async def confirm(self, recalled: RecalledPrincipal, news: News) -> Principal:
        """Return the principal that the token stands for now. Raises as ``TokenVerifier`` does."""
        return await self._cache.confirm(recalled, news)

    async def _fetch(self, digest: TokenDigest, text: str) -> Principal:
        token = _parsed(text)
        if await self._known.excludes(token.token_id):
            raise InvalidTokenError
        return await self._calls.verify_token(digest, token.token_id, partial(self._verifier.verify, token))


def _digest(text: str) -> TokenDigest:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()  # whatever text a client sent


def _parsed(text: str) -> PersonalAccessToken:
    token = PersonalAccessToken.parse(text)
    if token is None:
        raise InvalidTokenError
    return token


class CachedAgents:
    """A cache of agents by organization and id. It also caches that an agent does not exist."""

    def __init__(self, verifier: AgentVerifier, cache: FreshCache[AgentKey, Agent | None], calls: AuthCalls) -> None:
        self._verifier = verifier
        self._cache = cache
        self._calls = calls

    async def recall(self, org_id: UUID, agent_id: UUID) -> RecalledAgent:
        """Return an agent from the cache or the source; the value is None if it does not exist.

        Raises what ``AgentVerifier`` raises, except ``AgentNotAuthorizedError``.
        """
        return await self._cache.recall((org_id.int, agent_id.int), lambda: self._fetch(org_id, agent_id))

    def kept(self, org_id: UUID, agent_id: UUID) -> RecalledAgent | None:
        """Return the cached entry of an agent without asking the source; None if there is no entry."""
        return self._cache.kept((org_id.int, agent_id.int), lambda: self._fetch(org_id, agent_id))

    def is_recent(self, recalled: RecalledAgent) -> bool:
        """Return whether the agent was confirmed recently enough to be used without asking for changes."""
        return self._cache.is_recent(recalled)

    async def confirm(self, recalled: RecalledAgent, news: News) -> Agent:
        """Return the agent as it is now. Raises as ``AgentVerifier`` does."""
        agent = await self._cache.confirm(recalled, news)
        if agent is None:
            raise AgentNotAuthorizedError
        return agent

    async def _fetch(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        async def verify() -> Agent | None:
            try:
                return await self._verifier.verify(org_id, agent_id)
            except AgentNotAuthorizedError:
                return None

        return await self._calls.verify_agent((org_id.int, agent_id.int), verify)


class CachedDirectives:
    """Directives by organization and agent, and that there is none: from here, other workers, or the source."""

    def __init__(
        self, source: DirectiveLookup, shared: SharedDirectives, cache: FreshCache[AgentKey, Directive | None]
    ) -> None:
        self._source = source
        self._shared = shared
        self._cache = cache

    async def active(self, org_id: UUID, agent_id: UUID, news: News) -> Directive | None:
        """Return the directive in force now; None if there is none. Raises as ``DirectiveLookup`` does."""

        async def fetch() -> Directive | None:
            stamp = news.stamp(Kind.DIRECTIVES)  # read before what follows, as the rules want it
            if stamp is None:
                return await self._source.active(org_id, agent_id)
            known = await self._shared.get(org_id, agent_id, stamp)
            if known is not None:
                return known.directive
            directive = await self._source.active(org_id, agent_id)
            await self._shared.put(org_id, agent_id, stamp, SharedDirective(directive))
            return directive

        return await self._cache.get((org_id.int, agent_id.int), news, fetch)
