"""Identity in a dictionary."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.memory.change_log import InMemoryChangeLog
from ibex.domain.errors import NotFoundError
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokensPage
from ibex.domain.identity.management import AlreadyExistsError
from ibex.domain.identity.model import Agent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.identity.management import (
        NamedAgent,
        Organization,
        OrganizationStatus,
        StoredToken,
        TokenPosition,
        User,
    )
    from ibex.domain.identity.model import AgentStatus


class InMemoryIdentity:
    """An in-memory ``IdentityStore``. It appends its changes to its ``change_log``."""

    def __init__(self) -> None:
        self.change_log = InMemoryChangeLog()
        self._organizations: dict[UUID, Organization] = {}
        self._users: dict[UUID, User] = {}
        self._agents: dict[UUID, NamedAgent] = {}
        self._tokens: dict[UUID, StoredToken] = {}

    async def find_token(self, token_id: UUID) -> tuple[StoredToken, Organization] | None:
        """Return the token with its organization; see ``IdentityStore``."""
        token = self._tokens.get(token_id)
        return (token, self._organizations[token.org_id]) if token is not None else None

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        """Return the organization's agent; None if it has no such agent."""
        agent = self._agents.get(agent_id)
        return Agent(agent.id, agent.org_id, agent.status) if agent is not None and agent.org_id == org_id else None

    async def add_organization(self, organization: Organization) -> None:
        """Store a new organization. Raises ``AlreadyExistsError``."""
        if any(o.name == organization.name for o in self._organizations.values()):
            raise AlreadyExistsError("An organization with this name already exists.")
        self._organizations[organization.id] = organization

    async def organizations(self) -> Sequence[Organization]:
        """Return all organizations, oldest first."""
        return sorted(self._organizations.values(), key=lambda o: (o.created_at, o.id))

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status; False if there is none."""
        return self._change_organization(org_id, status=status)

    async def set_organization_rate_limit(self, org_id: UUID, rate_limit_rpm: int | None) -> bool:
        """Change an organization's rate limit; False if there is none."""
        return self._change_organization(org_id, rate_limit_rpm=rate_limit_rpm)

    async def add_user(self, user: User) -> None:
        """Store a new user. Raises ``AlreadyExistsError``, and ``NotFoundError`` if there is no such organization."""
        self._check_organization(user.org_id)
        if any(u.org_id == user.org_id and u.email == user.email for u in self._users.values()):
            raise AlreadyExistsError("The organization already has a user with this e-mail address.")
        self._users[user.id] = user

    async def add_agent(self, agent: NamedAgent) -> None:
        """Store a new agent. Raises ``AlreadyExistsError``, and ``NotFoundError`` if there is no such organization."""
        self._check_organization(agent.org_id)
        if any(a.org_id == agent.org_id and a.name == agent.name for a in self._agents.values()):
            raise AlreadyExistsError("The organization already has an agent with this name.")
        self._agents[agent.id] = agent
        self.change_log.append(agent.org_id, Kind.AGENTS)

    async def agents(self, org_id: UUID) -> Sequence[NamedAgent]:
        """Return the organization's agents, oldest first."""
        own = (a for a in self._agents.values() if a.org_id == org_id)
        return sorted(own, key=lambda a: (a.created_at, a.id))

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status; False if the organization has no such agent."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.org_id != org_id:
            return False
        self._agents[agent_id] = replace(agent, status=status)
        self.change_log.append(org_id, Kind.AGENTS)
        return True

    async def add_token(self, token: StoredToken) -> None:
        """Store a new token. Raises ``NotFoundError`` if its agent or user is not the organization's."""
        self._check_organization(token.org_id)
        if token.user_id is not None:
            user = self._users.get(token.user_id)
            if user is None or user.org_id != token.org_id:
                raise NotFoundError("The organization has no such user.")
        if token.agent_id is not None and await self.find_agent(token.org_id, token.agent_id) is None:
            raise NotFoundError("The organization has no such agent.")
        self._tokens[token.id] = token
        self.change_log.append(token.org_id, Kind.TOKENS, token.id)

    async def tokens(
        self, org_id: UUID, after: TokenPosition | None = None, limit: int | None = None
    ) -> Sequence[StoredToken]:
        """Return the organization's tokens, oldest first; see ``IdentityStore``."""
        own = sorted((t for t in self._tokens.values() if t.org_id == org_id), key=_position)
        return [t for t in own if after is None or _position(t) > (after.created_at, after.id)][:limit]

    async def live_tokens_by_key(self, now: datetime) -> Mapping[str, int]:
        """Return how many live tokens there are by key id; see ``IdentityStore``."""
        live = (
            t for t in self._tokens.values() if t.revoked_at is None and (t.expires_at is None or t.expires_at > now)
        )
        return Counter(token.key_id for token in live)

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token; False if the organization has no such token. Revoking again keeps the first time."""
        token = self._tokens.get(token_id)
        if token is None or token.org_id != org_id:
            return False
        self._tokens[token_id] = replace(token, revoked_at=token.revoked_at or now)
        self.change_log.append(org_id, Kind.TOKENS)
        return True

    async def count(self) -> int:
        """Return how many live tokens there are; see ``LiveTokens``."""
        return len(self._live_tokens())

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return a page of live tokens; see ``LiveTokens``."""
        ids = [token_id for token_id in self._live_tokens() if after is None or token_id > after]
        return TokensPage(ids[:limit], ids[limit - 1] if len(ids) > limit else None)

    def _change_organization(self, org_id: UUID, **changes: Any) -> bool:
        organization = self._organizations.get(org_id)
        if organization is None:
            return False
        self._organizations[org_id] = replace(organization, **changes)
        self.change_log.append(org_id, Kind.TOKENS)
        return True

    def _live_tokens(self) -> list[UUID]:
        return sorted(token.id for token in self._tokens.values() if token.revoked_at is None)

    def _check_organization(self, org_id: UUID) -> None:
        if org_id not in self._organizations:
            raise NotFoundError("There is no such organization.")


def _position(token: StoredToken) -> tuple[datetime, UUID]:
    return token.created_at, token.id
