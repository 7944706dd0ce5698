"""A server of the auth service with an observer, and calls to it by the generated stub."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from harness.auth import CREDENTIAL, bearer
from ibex.adapters.grpc.generated import auth_pb2
from ibex.domain.identity.management import TokenGrant

if TYPE_CHECKING:
    from uuid import UUID

    from harness.auth import Identity
    from ibex.adapters.grpc.server import AuthServer
    from ibex.domain.identity.model import PersonalAccessToken
    from ibex.domain.identity.permissions import Permission

Code = grpc.StatusCode
SERVICE_METADATA = bearer(CREDENTIAL)


class Recorder:
    """A ``CallObserver`` that records every notification."""

    def __init__(self) -> None:
        self.began_ids: list[UUID] = []
        self.failures: list[BaseException] = []
        self.calls: list[tuple[str, str]] = []
        self.one_ended = asyncio.Event()

    def began(self, request_id: UUID) -> None:
        """Record the start of a call."""
        self.began_ids.append(request_id)

    def failed(self, error: BaseException) -> None:
        """Record an exception."""
        self.failures.append(error)

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """Record the end of a call."""
        assert duration_ns >= 0
        self.calls.append((method, status))
        self.one_ended.set()


class Scene:
    """A server, its use cases and a stub for it."""

    def __init__(self, identity: Identity, server: AuthServer, service: Any, observer: Recorder) -> None:
        self.identity = identity
        self.server = server
        self.service = service
        self.observer = observer
        self.org_id = str(identity.org.id)

    async def refusal(self, method: str, request: Any, metadata: Any = ()) -> tuple[grpc.StatusCode, str, str]:
        """Return the status, reason and message of a refused call."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(self.service, method)(request, metadata=metadata)
        trailing = raised.value.trailing_metadata()
        return raised.value.code(), str(trailing.get("ibex-reason")), str(raised.value.details())

    async def validate(self, token: PersonalAccessToken) -> auth_pb2.ValidateTokenResponse:
        """Validate a token as a service."""
        request = auth_pb2.ValidateTokenRequest(access_token=token.reveal())
        response: auth_pb2.ValidateTokenResponse = await self.service.ValidateToken(request, metadata=SERVICE_METADATA)
        return response

    async def token_of(self, permissions: Permission, **grant: Any) -> Any:
        """Return the metadata of a new token of the organization."""
        token = await self.identity.manage.create_token(self.identity.org.id, TokenGrant("other", permissions, **grant))
        return bearer(token.reveal())

    def listing(self, **fields: Any) -> auth_pb2.ListTokensRequest:
        """Return a request for the organization's tokens."""
        return auth_pb2.ListTokensRequest(org_id=self.org_id, **fields)

    @property
    def admin(self) -> Any:
        """The administrator's metadata."""
        return bearer(self.identity.admin.reveal())


def asking_for(token: PersonalAccessToken) -> auth_pb2.ValidateTokenRequest:
    """Return a request to validate a token."""
    return auth_pb2.ValidateTokenRequest(access_token=token.reveal())


def asking_about(org_id: Any, agent_id: Any) -> auth_pb2.ValidateAgentRequest:
    """Return a request to validate an agent."""
    return auth_pb2.ValidateAgentRequest(org_id=str(org_id), agent_id=str(agent_id))
