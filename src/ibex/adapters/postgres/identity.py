"""Identity in PostgreSQL, accessed as the role ``ibex_auth``, the only role that may read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, bindparam, func, insert, or_, select, tuple_, update

from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import agents, organizations, tokens, users
from ibex.domain.identity.management import NamedAgent, Organization, OrganizationStatus, StoredToken
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.identity.permissions import permissions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.adapters.postgres.database import Database
    from ibex.domain.identity.management import TokenPosition, User

_FIND_TOKEN = Statement(
    select(
        tokens,
        organizations.c.name.label("organization_name"),
        organizations.c.status,
        organizations.c.rate_limit_rpm,
        organizations.c.created_at.label("organization_created_at"),
    )
    .join(organizations, organizations.c.id == tokens.c.org_id)
    .where(tokens.c.id == bindparam("token_id"))
)
_FIND_AGENT = Statement(
    select(agents.c.status).where(agents.c.id == bindparam("agent_id"), agents.c.org_id == bindparam("org_id"))
)
_ADD_ORGANIZATION = Statement(insert(organizations))
_ORGANIZATIONS = Statement(select(organizations).order_by(organizations.c.created_at, organizations.c.id))
_SET_ORGANIZATION_STATUS = Statement(
    update(organizations).where(organizations.c.id == bindparam("org_id")).values(status=bindparam("new_status"))
)
_SET_ORGANIZATION_RATE_LIMIT = Statement(
    update(organizations)
    .where(organizations.c.id == bindparam("org_id"))
    .values(rate_limit_rpm=bindparam("new_rate_limit_rpm"))
)
_ADD_USER = Statement(insert(users))
_ADD_AGENT = Statement(insert(agents))
_AGENTS = Statement(
    select(agents).where(agents.c.org_id == bindparam("org_id")).order_by(agents.c.created_at, agents.c.id)
)
_SET_AGENT_STATUS = Statement(
    update(agents)
    .where(agents.c.id == bindparam("agent_id"), agents.c.org_id == bindparam("owner_id"))
    .values(status=bindparam("new_status"))
)
_ADD_TOKEN = Statement(insert(tokens))
_OWN_TOKENS = (
    select(tokens)
    .where(tokens.c.org_id == bindparam("org_id"))
    .order_by(tokens.c.created_at, tokens.c.id)
    .limit(bindparam("max_rows", type_=Integer()))
)
_TOKENS = Statement(_OWN_TOKENS)
_TOKENS_AFTER = Statement(
    _OWN_TOKENS.where(tuple_(tokens.c.created_at, tokens.c.id) > tuple_(bindparam("after_time"), bindparam("after_id")))
)
_LIVE_BY_KEY = Statement(
    select(tokens.c.key_id, func.count().label("live"))
    .where(
        tokens.c.revoked_at.is_(None),
        or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > bindparam("now")),
    )
    .group_by(tokens.c.key_id)
)
_REVOKE_TOKEN = Statement(
    update(tokens)
    .where(tokens.c.id == bindparam("token_id"), tokens.c.org_id == bindparam("owner_id"))
    .values(revoked_at=func.coalesce(tokens.c.revoked_at, bindparam("now")))
)


class PostgresIdentity:
    """An ``IdentityStore``. A trigger records every change in the change log, in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_token(self, token_id: UUID) -> tuple[StoredToken, Organization] | None:
        """Return a token with its organization; None if there is no such token; see ``IdentityStore``."""
        rows = await self._rows(_FIND_TOKEN, token_id=token_id)
        return (_token(rows[0]), _organization_of(rows[0])) if rows else None

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        """Return an organization's agent; None if it has no such agent."""
        rows = await self._rows(_FIND_AGENT, org_id=org_id, agent_id=agent_id)
        return Agent(agent_id, org_id, AgentStatus(rows[0]["status"])) if rows else None

    async def add_organization(self, organization: Organization) -> None:
        """Store a new organization. Raises ``AlreadyExistsError``."""
        await self._change(
            _ADD_ORGANIZATION,
            id=organization.id,
            name=organization.name,
            status=organization.status.value,
            rate_limit_rpm=organization.rate_limit_rpm,
            created_at=organization.created_at,
        )

    async def organizations(self) -> Sequence[Organization]:
        """Return all organizations, oldest first."""
        return [_organization(row) for row in await self._rows(_ORGANIZATIONS)]

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status. Return False if there is no such organization."""
        return await self._change(_SET_ORGANIZATION_STATUS, org_id=org_id, new_status=status.value)

    async def set_organization_rate_limit(self, org_id: UUID, rate_limit_rpm: int | None) -> bool:
        """Change an organization's rate limit. Return False if there is no such organization."""
        return await self._change(_SET_ORGANIZATION_RATE_LIMIT, org_id=org_id, new_rate_limit_rpm=rate_limit_rpm)

    async def add_user(self, user: User) -> None:
        """Store a new user. Raises ``AlreadyExistsError``, and ``NotFoundError`` if there is no such organization."""
        await self._change(_ADD_USER, id=user.id, org_id=user.org_id, email=user.email, created_at=user.created_at)

    async def add_agent(self, agent: NamedAgent) -> None:
        """Store a new agent. Raises ``AlreadyExistsError``, and ``NotFoundError`` if there is no such organization."""
        await self._change(
            _ADD_AGENT,
            id=agent.id,
            org_id=agent.org_id,
            name=agent.name,
            status=agent.status.value,
            created_at=agent.created_at,
        )

    async def agents(self, org_id: UUID) -> Sequence[NamedAgent]:
        """Return the organization's agents, oldest first."""
        return [_agent(row) for row in await self._rows(_AGENTS, org_id=org_id)]

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status. Return False if the organization has no such agent."""
        return await self._change(_SET_AGENT_STATUS, owner_id=org_id, agent_id=agent_id, new_status=status.value)

    async def add_token(self, token: StoredToken) -> None:
        """Store a new token. Raises ``NotFoundError`` if the organization has no such agent or user."""
        await self._change(
            _ADD_TOKEN,
            id=token.id,
            org_id=token.org_id,
            name=token.name,
            permissions=int(token.permissions),
            key_id=token.key_id,
            digest=token.digest,
            user_id=token.user_id,
            agent_id=token.agent_id,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
        )

    async def tokens(
        self, org_id: UUID, after: TokenPosition | None = None, limit: int | None = None
    ) -> Sequence[StoredToken]:
        """Return the organization's tokens, oldest first; see ``IdentityStore``."""
        if after is None:
            rows = await self._rows(_TOKENS, org_id=org_id, max_rows=limit)
        else:
            rows = await self._rows(
                _TOKENS_AFTER, org_id=org_id, max_rows=limit, after_time=after.created_at, after_id=after.id
            )
        return [_token(row) for row in rows]

    async def live_tokens_by_key(self, now: datetime) -> Mapping[str, int]:
        """Return the number of live tokens by the key id of their pepper; see ``IdentityStore``."""
        return {row["key_id"]: row["live"] for row in await self._rows(_LIVE_BY_KEY, now=now)}

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token. Return False if the organization has no such token. Idempotent: keeps the first time."""
        return await self._change(_REVOKE_TOKEN, owner_id=org_id, token_id=token_id, now=now)

    async def _rows(self, statement: Statement, **values: object) -> list[dict[str, Any]]:
        async with self._database.transaction() as connection:
            return await (await statement.run(connection, **values)).fetchall()

    async def _change(self, statement: Statement, **values: object) -> bool:
        async with self._database.transaction() as connection:
            return (await statement.run(connection, **values)).rowcount > 0


def _organization(row: Mapping[str, Any]) -> Organization:
    return Organization(
        row["id"], row["name"], OrganizationStatus(row["status"]), row["rate_limit_rpm"], row["created_at"]
    )


def _organization_of(row: Mapping[str, Any]) -> Organization:
    """Return the organization in a row that joins a token with its organization."""
    return Organization(
        row["org_id"],
        row["organization_name"],
        OrganizationStatus(row["status"]),
        row["rate_limit_rpm"],
        row["organization_created_at"],
    )


def _agent(row: Mapping[str, Any]) -> NamedAgent:
    return NamedAgent(row["id"], row["org_id"], row["name"], AgentStatus(row["status"]), row["created_at"])


def _token(row: Mapping[str, Any]) -> StoredToken:
    return StoredToken(
        id=row["id"],
        org_id=row["org_id"],
        name=row["name"],
        permissions=permissions_of(row["permissions"]),
        key_id=row["key_id"],
        digest=row["digest"],
        user_id=row["user_id"],
        agent_id=row["agent_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
