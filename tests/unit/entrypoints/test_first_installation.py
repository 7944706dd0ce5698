"""Setting up a new installation."""

from __future__ import annotations

import pytest

from harness.memory.clock import ManualClock
from harness.memory.directives import InMemoryDirectives
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from ibex.domain.directives.management import ManageDirectives
from ibex.domain.identity.management import AlreadyExistsError, ManageIdentity, VerifyToken
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, CHAT, allows
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.entrypoints.first_installation import Installation, InstallationNames, bootstrap

NAMES = InstallationNames("acme", "admin@example.com", "assistant", "Be helpful.")
PEPPERS = TokenPeppers({"k": bytes(16)})


class Site:
    """An empty installation."""

    def __init__(self) -> None:
        clock, ids, store = ManualClock(), SequentialIds(), InMemoryIdentity()
        epochs = InMemoryEpochs(clock, SequentialIds(1))
        self.directives = InMemoryDirectives(store, clock)
        self.manage_identity = ManageIdentity(store, PEPPERS, epochs, clock, ids)
        self.manage_directives = ManageDirectives(self.directives, epochs, clock, ids)
        self.verify = VerifyToken(store, PEPPERS, epochs, clock)

    async def bootstrap(self) -> Installation:
        """Create the objects of a new installation."""
        return await bootstrap(self.manage_identity, self.manage_directives, NAMES)


async def test_the_agents_token_can_chat_as_the_agent() -> None:
    """The token is bound to the agent, so a client needs nothing else."""
    site = Site()

    made = await site.bootstrap()

    principal = (await site.verify.verify(made.agent_token)).value
    assert (principal.org_id, principal.agent_id) == (made.organization.id, made.agent.id)
    assert principal.permissions == AGENT_DEFAULT
    assert allows(principal.permissions, CHAT)


async def test_the_administrators_token_has_admin_permissions() -> None:
    """It belongs to the administrator and is not bound to an agent."""
    site = Site()

    made = await site.bootstrap()

    principal = (await site.verify.verify(made.admin_token)).value
    assert (principal.permissions, principal.user_id, principal.agent_id) == (ADMIN, made.admin.id, None)


async def test_the_directive_is_in_force() -> None:
    """The first request already uses it."""
    site = Site()

    made = await site.bootstrap()

    in_force = await site.directives.active(made.organization.id, made.agent.id)
    assert in_force is not None
    assert (in_force.text, in_force.version) == ("Be helpful.", 1)
    assert made.directive.version.author == "admin@example.com"


async def test_a_second_bootstrap_with_the_same_name_fails() -> None:
    """The existing objects do not change."""
    site = Site()
    made = await site.bootstrap()

    with pytest.raises(AlreadyExistsError):
        await site.bootstrap()
    assert list(await site.manage_identity.organizations()) == [made.organization]


async def test_the_repr_of_an_installation_contains_no_secret() -> None:
    """It contains neither token nor directive."""
    made = await Site().bootstrap()

    assert made.agent_token.reveal()[46:] not in repr(made)
    assert made.admin_token.reveal()[46:] not in repr(made)
    assert "Be helpful." not in repr(made)
