"""USE CASE: may this caller come in? Authenticate, check the agent, count the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSuspendedError,
    FieldCode,
    FieldError,
    InsufficientPermissionsError,
    InvalidTokenError,
    MissingAgentIdError,
    MissingTokenError,
    RateLimitedError,
    ValidationError,
)
from ibex.domain.exchange import Caller, Stage
from ibex.domain.identity import AgentStatus, PersonalAccessToken
from ibex.domain.permissions import CHAT, allows

if TYPE_CHECKING:
    from ibex.domain.identity import AgentVerifier, Principal, TokenVerifier
    from ibex.domain.open_exchange import OpenExchange
    from ibex.domain.rate_limits import RateLimiter

AGENT_HEADER = "X-IBEX-Agent-ID"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client claims, as its headers and path say; None where they do not. The repr holds no token."""

    authorization: str | None
    agent_id: str | None = None
    org_id: str | None = None

    def __repr__(self) -> str:
        return f"<Credentials agent_id={self.agent_id!r} org_id={self.org_id!r}>"


class AdmitCaller:
    """Lets verified callers in and notes who they are; raises the refusals of ``errors`` for all others."""

    def __init__(
        self, tokens: TokenVerifier, agents: AgentVerifier, rate_limiter: RateLimiter, *, default_rpm: int
    ) -> None:
        """Take the limit, in requests per minute, of organizations that set none of their own."""
        self._tokens = tokens
        self._agents = agents
        self._rate_limiter = rate_limiter
        self._default_rpm = default_rpm

    async def __call__(self, credentials: Credentials, notes: OpenExchange) -> Principal:
        """Admit a caller that wants to act as an agent; the verified agent is in the notes' ``caller``."""
        with notes.timed(Stage.AUTHENTICATE):
            principal = await self.authenticate(credentials, notes)
            agent_id = await self._verify_agent(principal, credentials.agent_id)
            notes.caller = Caller(principal.org_id, principal.token_id, agent_id)
        with notes.timed(Stage.RATE_LIMIT):
            await self._count(principal, notes)
        return principal

    async def authenticate(self, credentials: Credentials, notes: OpenExchange) -> Principal:
        """Admit a caller without an agent, uncounted."""
        token = _bearer(credentials.authorization)
        principal = await self._tokens.verify(token)
        notes.caller = Caller(principal.org_id, principal.token_id)
        foreign_path = credentials.org_id is not None and credentials.org_id.lower() != str(principal.org_id)
        if foreign_path or not allows(principal.permissions, CHAT):
            raise InsufficientPermissionsError
        return principal

    async def _verify_agent(self, principal: Principal, claimed: str | None) -> UUID:
        agent_id = _agent_id(claimed) if claimed is not None else principal.agent_id
        if agent_id is None:
            raise MissingAgentIdError
        if principal.agent_id not in (None, agent_id):
            raise AgentNotAuthorizedError
        agent = await self._agents.verify(principal.org_id, agent_id)
        if agent.status is not AgentStatus.ACTIVE:
            raise AgentSuspendedError
        return agent.id

    async def _count(self, principal: Principal, notes: OpenExchange) -> None:
        own = principal.rate_limit_rpm
        limit = self._default_rpm if own is None else own
        decision = await self._rate_limiter.admit(principal.org_id, limit, notes.clock.now())
        notes.rate_limit = decision
        if not decision.allowed:
            raise RateLimitedError(
                f"The organization's limit of {limit} requests per minute is reached.",
                retry_after_s=decision.retry_after_s,
            )


def _bearer(authorization: str | None) -> PersonalAccessToken:
    scheme, _, credential = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise MissingTokenError
    token = PersonalAccessToken.parse(credential.strip())
    if token is None:
        raise InvalidTokenError
    return token


def _agent_id(claimed: str) -> UUID:
    try:
        return UUID(claimed)
    except ValueError:
        raise ValidationError((FieldError(AGENT_HEADER, FieldCode.INVALID_FORMAT, "must be a UUID"),)) from None
