"""The domain's verifiers of tokens and agents, which call auth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.messages import agent_in, principal_in
from ibex.adapters.grpc.statuses import CallFailedError, agent_error, token_error
from ibex.domain.errors import AuthUnavailableError, ServiceDegradedError

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import Agent, PersonalAccessToken, Principal


class AuthChannel(Protocol):
    """The methods of ``GrpcAuthChannel`` that the verifiers use. Both raise ``CallFailedError``."""

    async def validate_token(self, request: auth_pb2.ValidateTokenRequest) -> auth_pb2.ValidateTokenResponse:
        """Call ValidateToken."""

    async def validate_agent(self, request: auth_pb2.ValidateAgentRequest) -> auth_pb2.ValidateAgentResponse:
        """Call ValidateAgent."""


class GrpcTokenVerifier:
    """A ``TokenVerifier`` that calls auth. The channel limits the time of a call."""

    def __init__(self, channel: AuthChannel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Return the token's principal; see ``TokenVerifier``."""
        asked_ns = self._clock.monotonic_ns()
        try:
            response = await self._channel.validate_token(auth_pb2.ValidateTokenRequest(access_token=token.reveal()))
            return principal_in(response, token, asked_ns)
        except CallFailedError as failed:
            raise token_error(failed) from failed
        except ValueError:
            raise ServiceDegradedError from None


class GrpcAgentVerifier:
    """An ``AgentVerifier`` that calls auth. The channel limits the time of a call."""

    def __init__(self, channel: AuthChannel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Return the agent; see ``AgentVerifier``."""
        asked_ns = self._clock.monotonic_ns()
        request = auth_pb2.ValidateAgentRequest(agent_id=str(agent_id), org_id=str(org_id))
        try:
            return agent_in(await self._channel.validate_agent(request), org_id, agent_id, asked_ns)
        except CallFailedError as failed:
            raise agent_error(failed) from failed
        except ValueError:
            raise AuthUnavailableError from None
