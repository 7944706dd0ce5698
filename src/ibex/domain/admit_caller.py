"""USE CASE: may this caller come in? Authenticate, check the agent, count the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    FieldCode,
    FieldError,
    InsufficientPermissionsError,
    MissingAgentIdError,
    MissingTokenError,
    RateLimitedError,
    ValidationError,
)
from ibex.domain.exchange import Caller, Stage
from ibex.domain.identity import AgentStatus
from ibex.domain.ids import uuid_in
from ibex.domain.permissions import CHAT, allows
from ibex.domain.rate_limits import decide
from ibex.domain.values import value

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.cached_identity import CachedAgents, CachedTokens, RecalledAgent, RecalledPrincipal
    from ibex.domain.freshness import News
    from ibex.domain.identity import Principal
    from ibex.domain.open_exchange import OpenExchange
    from ibex.domain.rate_limits import RateLimiter

AGENT_HEADER = "X-IBEX-Agent-ID"
_REFUSALS = (InsufficientPermissionsError, MissingAgentIdError, ValidationError, AgentNotAuthorizedError)


@value
class Credentials:
    """What a client claims, as its headers and path say; None where they do not. The repr holds no token."""

    authorization: str | None
    agent_id: str | None = None
    org_id: str | None = None

    def __repr__(self) -> str:
        return f"<Credentials agent_id={self.agent_id!r} org_id={self.org_id!r}>"


class AdmitCaller:
    """Lets verified callers in and notes who they are; raises the refusals of ``errors`` for all others.

    What is remembered of a caller says to which organization it belongs, which never changes; one round trip counts the
    request and brings the organization's news; by those, what is remembered is confirmed or looked up anew.
    """

    def __init__(
        self, tokens: CachedTokens, agents: CachedAgents, rate_limiter: RateLimiter, *, default_rpm: int
    ) -> None:
        """Take the limit, in requests per minute, of organizations that set none of their own."""
        self._tokens = tokens
        self._agents = agents
        self._rate_limiter = rate_limiter
        self._default_rpm = default_rpm

    async def __call__(self, credentials: Credentials, notes: OpenExchange) -> News:
        """Admit a caller that wants to act as an agent, who is the notes' ``caller`` then; return the news of it."""
        notes.enter(Stage.AUTHENTICATE)
        token, agent = await self._recall(credentials, notes)
        now = notes.clock.now()
        notes.enter(Stage.RATE_LIMIT)
        tally = await self._rate_limiter.count(token.value.org_id, now)
        notes.enter(Stage.AUTHENTICATE)
        principal = await self._tokens.confirm(token, tally.news)
        await self._check_active(agent, tally.news)
        notes.enter(None)
        notes.auth_cached = token.from_cache and agent.from_cache
        notes.auth_stale = token.is_stale or agent.is_stale
        own = principal.rate_limit_rpm
        limit = self._default_rpm if own is None else own
        notes.rate_limit = decide(count=tally.count, limit=limit, now=now)
        if not notes.rate_limit.allowed:
            raise RateLimitedError(
                f"The organization's limit of {limit} requests per minute is reached.",
                retry_after_s=notes.rate_limit.retry_after_s,
            )
        return tally.news

    async def authenticate(self, credentials: Credentials, notes: OpenExchange) -> Principal:
        """Admit a caller without an agent, uncounted."""
        token = await self._recall_token(credentials, notes)
        principal = await self._tokens.confirm(token, await self._rate_limiter.news(token.value.org_id))
        _check_reach(principal, credentials)
        return principal

    async def _recall(self, credentials: Credentials, notes: OpenExchange) -> tuple[RecalledPrincipal, RecalledAgent]:
        """Return what is known of token and agent, checked for what of it never changes.

        A token that is none any more is refused as that and for nothing else, which would tell of the organization. Who
        is refused is not counted, since who goes on regardless must not use up others' requests.
        """
        token = await self._recall_token(credentials, notes)
        claimed = token.value
        org_id = claimed.org_id
        try:
            _check_reach(claimed, credentials)
            agent = await self._recall_agent(claimed, credentials.agent_id)
        except _REFUSALS:
            if token.from_cache:
                await self._tokens.confirm(token, await self._rate_limiter.news(org_id))
            raise
        if agent.value.status is not AgentStatus.ACTIVE:
            news = await self._rate_limiter.news(org_id)
            await self._tokens.confirm(token, news)
            await self._check_active(agent, news)
        notes.caller = Caller(org_id, claimed.token_id, agent.value.id)
        return token, agent

    async def _recall_token(self, credentials: Credentials, notes: OpenExchange) -> RecalledPrincipal:
        recalled = await self._tokens.recall(_bearer(credentials.authorization))
        principal = recalled.value
        notes.caller = Caller(principal.org_id, principal.token_id)
        return recalled

    async def _recall_agent(self, principal: Principal, claimed: str | None) -> RecalledAgent:
        agent_id = _agent_id(claimed) if claimed is not None else principal.agent_id
        if agent_id is None:
            raise MissingAgentIdError
        if principal.agent_id not in (None, agent_id):
            raise AgentNotAuthorizedError
        return await self._agents.recall(principal.org_id, agent_id)

    async def _check_active(self, recalled: RecalledAgent, news: News) -> None:
        agent = await self._agents.confirm(recalled, news)
        if agent.status is not AgentStatus.ACTIVE:
            raise AgentSuspendedError


def _check_reach(principal: Principal, credentials: Credentials) -> None:
    """Raise unless the principal may chat, in the organization that the path names if it names one."""
    foreign_path = credentials.org_id is not None and credentials.org_id.lower() != str(principal.org_id)
    if foreign_path or not allows(principal.permissions, CHAT):
        raise InsufficientPermissionsError


def _bearer(authorization: str | None) -> str:
    scheme, _, credential = (authorization or "").strip(" \t").partition(" ")
    credential = credential.strip(" ")  # any other blank is a part of it, which no token has
    if scheme.lower() != "bearer" or not credential:
        raise MissingTokenError
    return credential


def _agent_id(claimed: str) -> UUID:
    found = uuid_in(claimed)
    if found is None:
        raise ValidationError((FieldError(AGENT_HEADER, FieldCode.INVALID_FORMAT, "must be a UUID"),))
    return found
