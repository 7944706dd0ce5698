"""USE CASE: set up a new installation: an organization, an administrator, an agent with a directive, and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT

if TYPE_CHECKING:
    from ibex.domain.directives.management import DirectiveState, ManageDirectives
    from ibex.domain.identity.management import ManageIdentity, NamedAgent, Organization, User
    from ibex.domain.identity.model import PersonalAccessToken


@dataclass(frozen=True, slots=True)
class InstallationNames:
    """The names for a new installation, and the first directive."""

    organization: str
    admin_email: str
    agent: str
    directive: str


@dataclass(frozen=True, slots=True)
class Installation:
    """The created objects. The agent's token is bound to the agent; the administrator's can manage and chat."""

    organization: Organization
    admin: User
    agent: NamedAgent
    directive: DirectiveState
    agent_token: PersonalAccessToken
    admin_token: PersonalAccessToken


async def bootstrap(identity: ManageIdentity, directives: ManageDirectives, names: InstallationNames) -> Installation:
    """Create the objects of a new installation. Raises ``AlreadyExistsError`` if the organization's name is taken."""
    organization = await identity.create_organization(names.organization)
    admin = await identity.create_user(organization.id, names.admin_email)
    agent = await identity.create_agent(organization.id, names.agent)
    directive = await directives.set(organization.id, agent.id, names.directive, author=names.admin_email)
    agent_grant = TokenGrant(name=names.agent, permissions=AGENT_DEFAULT, agent_id=agent.id)
    admin_grant = TokenGrant(name="administrator", permissions=ADMIN, user_id=admin.id)
    return Installation(
        organization=organization,
        admin=admin,
        agent=agent,
        directive=directive,
        agent_token=await identity.create_token(organization.id, agent_grant),
        admin_token=await identity.create_token(organization.id, admin_grant),
    )
