"""Identity as operators manage it and auth verifies it, over an in-memory store, change log and epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from ibex.domain.errors import InvalidTokenError
from ibex.domain.identity.management import ManageIdentity, TokenGrant, VerifyAgent, VerifyToken
from ibex.domain.identity.permissions import CHAT
from ibex.domain.identity.token_hash import TokenPeppers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ibex.domain.freshness.change_log import Change
    from ibex.domain.identity.management import NamedAgent, Organization
    from ibex.domain.identity.model import PersonalAccessToken

PEPPERS = TokenPeppers({"k1": b"a pepper of some length"})
MISSING = UUID(int=404)
GRANT = TokenGrant("laptop", CHAT)


class WatchedEpochs(InMemoryEpochs):
    """Epochs that record each replacement and what ``on_replaced`` returned then. They can be made unreachable."""

    def __init__(self, clock: ManualClock, ids: SequentialIds) -> None:
        super().__init__(clock, ids)
        self.replaced: list[UUID] = []
        self.on_replaced: Callable[[UUID], Awaitable[None]] | None = None
        self.reachable = True

    async def replace(self, org_id: UUID) -> bool:
        """Replace an epoch."""
        self.replaced.append(org_id)
        if self.on_replaced is not None:
            await self.on_replaced(org_id)
        return self.reachable and await super().replace(org_id)


class Office:
    """The use cases over an in-memory store."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = InMemoryIdentity()
        self.epochs = WatchedEpochs(self.clock, SequentialIds(1))
        self.manage = ManageIdentity(self.store, PEPPERS, self.epochs, self.clock, SequentialIds())
        self.verify_token = VerifyToken(self.store, PEPPERS, self.epochs, self.clock)
        self.verify_agent = VerifyAgent(self.store, self.epochs)

    async def settled(self) -> tuple[Organization, NamedAgent]:
        """Return an organization that has an agent."""
        organization = await self.manage.create_organization("acme", 60)
        agent = await self.manage.create_agent(organization.id, "support")
        self.epochs.replaced.clear()
        return organization, agent

    async def changes_since(self, position: str) -> list[Change]:
        """Return the changes since a position of the change log."""
        return list((await self.store.change_log.read(position)).changes or [])

    async def position(self) -> str:
        """Return the position of the change log."""
        return (await self.store.change_log.read(None)).position

    async def refuses(self, token: PersonalAccessToken) -> None:
        """Assert that a token is refused, with the one message that all refusals share."""
        with pytest.raises(InvalidTokenError) as raised:
            await self.verify_token.verify(token)
        assert str(raised.value) == InvalidTokenError.default_message
