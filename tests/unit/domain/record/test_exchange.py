"""The parts of an exchange."""

from __future__ import annotations

from uuid import UUID

from ibex.domain.identity.model import Principal
from ibex.domain.identity.permissions import CHAT
from ibex.domain.record.exchange import Caller


def test_a_caller_has_the_organization_token_and_user_of_its_principal() -> None:
    """The agent is added once it is verified."""
    principal = Principal(UUID(int=1), UUID(int=2), CHAT, user_id=UUID(int=3), agent_id=UUID(int=4))

    assert Caller.of(principal) == Caller(UUID(int=1), UUID(int=2), None, UUID(int=3))
    assert Caller.of(principal, UUID(int=5)) == Caller(UUID(int=1), UUID(int=2), UUID(int=5), UUID(int=3))
