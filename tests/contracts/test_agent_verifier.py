"""The contract of ``AgentVerifier``, in process and over gRPC."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.auth import Identity, asking, serving
from ibex.adapters.grpc.verifiers import GrpcAgentVerifier
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    ServiceDegradedError,
)
from ibex.domain.identity.management import VerifyAgent
from ibex.domain.identity.model import Agent, AgentStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.model import AgentVerifier


@pytest.fixture
async def identity() -> Identity:
    """An organization with an agent and tokens."""
    return await Identity.settled()


@pytest.fixture(params=[VerifyAgent, GrpcAgentVerifier])
async def verifier(request: pytest.FixtureRequest, identity: Identity) -> AsyncIterator[AgentVerifier]:
    """Each verifier in turn."""
    if request.param is VerifyAgent:
        yield identity.use_cases.agents
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(identity))
        channel = await stack.enter_async_context(asking(server.port))
        yield GrpcAgentVerifier(channel, identity.clock)


@pytest.mark.parametrize("status", AgentStatus)
async def test_an_agent_of_any_status_is_returned(
    verifier: AgentVerifier, identity: Identity, status: AgentStatus
) -> None:
    """The caller decides whether the status allows the request."""
    await identity.manage.set_agent_status(identity.org.id, identity.agent.id, status)

    fetched = await verifier.verify(identity.org.id, identity.agent.id)

    assert fetched.value == Agent(identity.agent.id, identity.org.id, status)


async def test_the_result_contains_the_epoch(verifier: AgentVerifier, identity: Identity) -> None:
    """The first result already has an epoch. A change replaces it, and it stays the same otherwise."""
    epochs = []
    for status in (AgentStatus.ACTIVE, AgentStatus.PAUSED):
        await identity.manage.set_agent_status(identity.org.id, identity.agent.id, status)
        epochs += [(await verifier.verify(identity.org.id, identity.agent.id)).epoch for _ in range(2)]

    assert all(epoch.was_read and epoch.value for epoch in epochs)
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


async def test_a_foreign_agent_and_an_unknown_agent_raise_the_same_error(
    verifier: AgentVerifier, identity: Identity
) -> None:
    """An unknown organization raises the same error and message too."""
    other = await identity.manage.create_organization("other")
    theirs = await identity.manage.create_agent(other.id, "theirs")

    messages = set()
    for org_id, agent_id in ((identity.org.id, theirs.id), (identity.org.id, uuid4()), (uuid4(), identity.agent.id)):
        with pytest.raises(AgentNotAuthorizedError) as raised:
            await verifier.verify(org_id, agent_id)
        messages.add(str(raised.value))

    assert messages == {AgentNotAuthorizedError.default_message}


async def test_an_unavailable_source_raises_its_own_error(verifier: AgentVerifier, identity: Identity) -> None:
    """The error differs from a refusal. The next request after the source recovers succeeds."""
    identity.store.error = ServiceDegradedError("canary")
    with pytest.raises(AgentSourceUnavailableError) as raised:
        await verifier.verify(identity.org.id, identity.agent.id)
    identity.store.error = None

    assert str(raised.value) == AuthUnavailableError.default_message
    await verifier.verify(identity.org.id, identity.agent.id)
