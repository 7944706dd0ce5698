"""A worker's caches of tokens and agents (ADR 0045)."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from ibex.domain.errors import AgentNotAuthorizedError, InvalidTokenError
from ibex.domain.freshness.cache import Fetched, Policy
from ibex.domain.freshness.kinds import unknown_epoch
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from ibex.domain.clock import Clock
    from ibex.domain.freshness.cache import FreshCache, Lookup
    from ibex.domain.freshness.kinds import Epoch
    from ibex.domain.freshness.unknown_tokens import UnknownTokens
    from ibex.domain.identity.auth_calls import AuthCalls
    from ibex.domain.identity.model import Agent, AgentVerifier, Principal, TokenVerifier

TokenDigest: TypeAlias = bytes
AgentKey: TypeAlias = "tuple[int, int]"
"""Organization and agent as integers, which hash ten times as fast as UUIDs."""
TokenLookup: TypeAlias = "Lookup[TokenDigest, Principal]"
AgentLookup: TypeAlias = "Lookup[AgentKey, Agent | None]"
"""The value is None if the organization has no such agent."""

ENTRY_LIFETIME_S: Final = 30.0
_BEFORE_EXPIRY_S: Final = 5.0


def token_policy(*, stale_if_error_s: float) -> Policy[TokenDigest, Principal]:
    """Return the caching policy of tokens: 30 s, and at most until 5 s before the token expires."""

    def lifetime_s(principal: Principal) -> float:
        if principal.remaining_s is None:
            return ENTRY_LIFETIME_S
        return min(ENTRY_LIFETIME_S, principal.remaining_s - _BEFORE_EXPIRY_S)

    return Policy(
        org_of=lambda _, principal: principal.org_id,
        lifetime_s=lifetime_s,
        stale_if_error_s=stale_if_error_s,
        outlives_s=lambda principal: principal.remaining_s,
    )


def agent_policy(*, stale_if_error_s: float) -> Policy[AgentKey, Agent | None]:
    """Return the caching policy of agents and absent agents: 30 s. Stale-if-error never serves an absent agent."""
    return Policy(
        org_of=lambda key, _: UUID(int=key[0]),
        lifetime_s=lambda _: ENTRY_LIFETIME_S,
        stale_if_error_s=stale_if_error_s,
        outlives_s=lambda agent: 0.0 if agent is None else None,
    )


class CachedTokens:
    """A cache of principals by the SHA-256 of their token. The token itself is not stored."""

    def __init__(
        self,
        verifier: TokenVerifier,
        unknown: UnknownTokens,
        cache: FreshCache[TokenDigest, Principal],
        calls: AuthCalls,
    ) -> None:
        self._verifier = verifier
        self._unknown = unknown
        self._cache = cache
        self._calls = calls

    async def look_up(self, text: str) -> TokenLookup:
        """Return the cached principal of a token, valid or not; verify the token if it is not cached.

        Raises what ``TokenVerifier`` raises, and ``InvalidTokenError`` for a text that is not a token. A token that the
        Bloom filter excludes causes no call to auth.
        """
        digest = _digest(text)
        fetch = partial(self._fetch, digest, text)
        lookup = self._cache.cached(digest, fetch)
        if lookup is not None:
            return lookup
        token = _parsed(text)
        await self._unknown.refuse(token.token_id)
        return await self._cache.look_up(digest, fetch)

    def is_valid(self, lookup: TokenLookup, epoch: Epoch, now_ns: int) -> bool:
        """Return whether a request may act on the lookup now."""
        return self._cache.is_valid(lookup, epoch, now_ns)

    async def validate(self, lookup: TokenLookup, epoch: Epoch) -> Principal:
        """Return the principal that is in force now. Raises what ``TokenVerifier`` raises."""
        return await self._cache.validate(lookup, epoch)

    async def _fetch(self, digest: TokenDigest, text: str) -> Fetched[Principal]:
        token = _parsed(text)
        return await self._calls.verify_token(digest, token.token_id, partial(self._verifier.verify, token))


def _digest(text: str) -> TokenDigest:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()  # a client can send any text


def _parsed(text: str) -> PersonalAccessToken:
    token = PersonalAccessToken.parse(text)
    if token is None:
        raise InvalidTokenError
    return token


class CachedAgents:
    """A cache of agents, and of absent agents, by organization and id."""

    def __init__(
        self,
        verifier: AgentVerifier,
        cache: FreshCache[AgentKey, Agent | None],
        calls: AuthCalls,
        clock: Clock,
    ) -> None:
        self._verifier = verifier
        self._cache = cache
        self._calls = calls
        self._clock = clock

    async def look_up(self, org_id: UUID, agent_id: UUID) -> AgentLookup:
        """Return the cached agent, valid or not; verify it if it is not cached. The value is None for an absent agent.

        Raises what ``AgentVerifier`` raises, except ``AgentNotAuthorizedError``.
        """
        return await self._cache.look_up((org_id.int, agent_id.int), partial(self._fetch, org_id, agent_id))

    def cached(self, org_id: UUID, agent_id: UUID) -> AgentLookup | None:
        """Return the cached agent, valid or not; None if it is not cached. Does no I/O."""
        return self._cache.cached((org_id.int, agent_id.int), partial(self._fetch, org_id, agent_id))

    def is_valid(self, lookup: AgentLookup, epoch: Epoch, now_ns: int) -> bool:
        """Return whether a request may act on the lookup now."""
        return self._cache.is_valid(lookup, epoch, now_ns)

    async def validate(self, lookup: AgentLookup, epoch: Epoch) -> Agent:
        """Return the agent that is in force now. Raises what ``AgentVerifier`` raises."""
        agent = await self._cache.validate(lookup, epoch)
        if agent is None:
            raise AgentNotAuthorizedError
        return agent

    async def _fetch(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent | None]:
        return await self._calls.verify_agent((org_id.int, agent_id.int), partial(self._verify, org_id, agent_id))

    async def _verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent | None]:
        asked_ns = self._clock.monotonic_ns()
        try:
            fetched = await self._verifier.verify(org_id, agent_id)
        except AgentNotAuthorizedError:
            # The refusal contains no epoch: the next request looks the agent up with its own reading.
            return Fetched(None, unknown_epoch(asked_ns))
        return Fetched(fetched.value, fetched.epoch)
