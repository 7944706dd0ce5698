"""Tests of the verifiers over a scripted channel."""

from __future__ import annotations

from uuid import UUID

import pytest
from grpc import StatusCode

from harness.memory.clock import ManualClock
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.messages import agent_message, principal_message
from ibex.adapters.grpc.statuses import CallFailedError
from ibex.adapters.grpc.verifiers import GrpcAgentVerifier, GrpcTokenVerifier
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    IbexError,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.cache import Fetched
from ibex.domain.freshness.kinds import Epoch
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.identity.permissions import CHAT

ORG, AGENT = UUID(int=1), UUID(int=2)
CLOCK = ManualClock()
EPOCH = Epoch("a", was_read=True, asked_ns=CLOCK.monotonic_ns())
TOKEN = PersonalAccessToken.issue(UUID(int=3), b"c" * 32)


class Calls:
    """Returns the responses of a test, and records requests."""

    def __init__(
        self,
        *,
        token: auth_pb2.ValidateTokenResponse | None = None,
        agent: auth_pb2.ValidateAgentResponse | None = None,
        failed: CallFailedError | None = None,
    ) -> None:
        self._token = token or auth_pb2.ValidateTokenResponse()
        self._agent = agent or auth_pb2.ValidateAgentResponse()
        self._failed = failed
        self.asked: list[object] = []

    async def validate_token(self, request: auth_pb2.ValidateTokenRequest) -> auth_pb2.ValidateTokenResponse:
        """Return the response."""
        self._note(request)
        return self._token

    async def validate_agent(self, request: auth_pb2.ValidateAgentRequest) -> auth_pb2.ValidateAgentResponse:
        """Return the response."""
        self._note(request)
        return self._agent

    def _note(self, request: object) -> None:
        self.asked.append(request)
        if self._failed is not None:
            raise self._failed


async def test_a_token_is_sent_and_its_principal_returned() -> None:
    """The whole token is sent once. The epoch has the time at which the call began, by this side's clock."""
    principal = Principal(ORG, TOKEN.token_id, CHAT)
    calls = Calls(token=principal_message(Fetched(principal, EPOCH)))

    assert await GrpcTokenVerifier(calls, CLOCK).verify(TOKEN) == Fetched(principal, EPOCH)
    assert calls.asked == [auth_pb2.ValidateTokenRequest(access_token=TOKEN.reveal())]


async def test_an_agent_is_requested_and_returned() -> None:
    """The request names the organization."""
    agent = Agent(AGENT, ORG, AgentStatus.PAUSED)
    calls = Calls(agent=agent_message(Fetched(agent, EPOCH)))

    assert await GrpcAgentVerifier(calls, CLOCK).verify(ORG, AGENT) == Fetched(agent, EPOCH)
    assert calls.asked == [auth_pb2.ValidateAgentRequest(agent_id=str(AGENT), org_id=str(ORG))]


@pytest.mark.parametrize(
    ("failed", "token_error", "agent_error"),
    [
        (CallFailedError(StatusCode.UNAUTHENTICATED, "invalid-token"), InvalidTokenError, AuthUnavailableError),
        (
            CallFailedError(StatusCode.PERMISSION_DENIED, "agent-not-authorized"),
            ServiceDegradedError,
            AgentNotAuthorizedError,
        ),
        (
            CallFailedError(StatusCode.UNAVAILABLE, "source-unavailable"),
            TokenSourceUnavailableError,
            AgentSourceUnavailableError,
        ),
        (CallFailedError(StatusCode.UNAVAILABLE), ServiceDegradedError, AuthUnavailableError),
        (CallFailedError(StatusCode.DEADLINE_EXCEEDED), ServiceDegradedError, AuthUnavailableError),
    ],
)
async def test_a_failed_call_is_a_domain_error(
    failed: CallFailedError, token_error: type[IbexError], agent_error: type[IbexError]
) -> None:
    """The error's cause is the failed call."""
    with pytest.raises(token_error) as of_token:
        await GrpcTokenVerifier(Calls(failed=failed), CLOCK).verify(TOKEN)
    with pytest.raises(agent_error) as of_agent:
        await GrpcAgentVerifier(Calls(failed=failed), CLOCK).verify(ORG, AGENT)

    assert (type(of_token.value), type(of_agent.value)) == (token_error, agent_error)
    assert of_token.value.__cause__ is failed


async def test_an_invalid_response_is_an_outage() -> None:
    """It proves nothing about the token or the agent."""
    with pytest.raises(ServiceDegradedError):
        await GrpcTokenVerifier(Calls(), CLOCK).verify(TOKEN)
    with pytest.raises(AuthUnavailableError):
        await GrpcAgentVerifier(Calls(), CLOCK).verify(ORG, AGENT)
