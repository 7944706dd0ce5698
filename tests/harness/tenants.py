"""Organizations, users, agents, tokens and directive texts for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from ibex.domain.directives.management import DirectiveDraft
from ibex.domain.directives.model import text_hash
from ibex.domain.identity.management import NamedAgent, Organization, OrganizationStatus, StoredToken, User
from ibex.domain.identity.model import AgentStatus
from ibex.domain.identity.permissions import AGENT_DEFAULT

if TYPE_CHECKING:
    from ibex.domain.identity.management import IdentityStore

MIDNIGHT = datetime(2031, 5, 1, tzinfo=UTC)
_moments = count()


def later() -> datetime:
    """Return a time later than every one returned before."""
    return MIDNIGHT + timedelta(microseconds=next(_moments))


def new_organization(name: str | None = None, rate_limit_rpm: int | None = None) -> Organization:
    """Return an active organization; its name is unique unless given."""
    org_id = uuid4()
    return Organization(org_id, name or f"org {org_id}", OrganizationStatus.ACTIVE, rate_limit_rpm, later())


def new_user(org_id: UUID, email: str | None = None) -> User:
    """Return a user; the e-mail address is unique unless given."""
    user_id = uuid4()
    return User(user_id, org_id, email or f"{user_id}@example.com", later())


def new_agent(org_id: UUID, name: str | None = None) -> NamedAgent:
    """Return an active agent; its name is unique unless given."""
    agent_id = uuid4()
    return NamedAgent(agent_id, org_id, name or f"agent {agent_id}", AgentStatus.ACTIVE, later())


def new_token(
    org_id: UUID,
    *,
    user_id: UUID | None = None,
    agent_id: UUID | None = None,
    expires_at: datetime | None = None,
) -> StoredToken:
    """Return a token in its stored form."""
    return StoredToken(
        id=uuid4(),
        org_id=org_id,
        name="a token",
        permissions=AGENT_DEFAULT,
        key_id="test",
        digest=b"d" * 32,
        user_id=user_id,
        agent_id=agent_id,
        created_at=later(),
        expires_at=expires_at,
        revoked_at=None,
    )


def new_draft(text: str | None = None) -> DirectiveDraft:
    """Return a directive version without a number, by default with a unique text."""
    text = f"Be brief. {uuid4()}" if text is None else text
    return DirectiveDraft(uuid4(), text, text_hash(text), "someone@example.com", later())


async def attach(identity: IdentityStore) -> NamedAgent:
    """Store an organization with one agent and return the agent."""
    organization = new_organization()
    await identity.add_organization(organization)
    agent = new_agent(organization.id)
    await identity.add_agent(agent)
    return agent
