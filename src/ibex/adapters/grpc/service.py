"""The service: each method translates a request to a use case of the domain. The interceptor translates errors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ibex.adapters.grpc.callers import check_grant
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc
from ibex.adapters.grpc.messages import (
    agent_message,
    grant_in,
    page_message,
    page_size_in,
    parse_uuid,
    position_in,
    principal_message,
)
from ibex.domain.errors import InvalidTokenError, ServiceDegradedError
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    import grpc

    from ibex.adapters.grpc.callers import Callers
    from ibex.adapters.grpc.metadata import Metadata
    from ibex.adapters.grpc.pauses import PauseDetector
    from ibex.adapters.grpc.watch_service import WatchService
    from ibex.domain.identity.management import ManageIdentity
    from ibex.domain.identity.model import AgentVerifier, TokenVerifier

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")

SOURCE_DEADLINE_SHARE: Final = 0.7
"""The share of a caller's deadline that a lookup may take. The rest is for the response that it does not answer."""
AFTER_PAUSE_S: Final = 1.0
"""A call that begins within this time after a pause of this process may have been sent during the pause (seconds)."""
SERVICE: Final = auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name


@dataclass(frozen=True, slots=True)
class IdentityUseCases:
    """The use cases behind the service.

    ``administrators`` verifies the tokens of administrators. It shares a database pool with ``manage``. ``tokens`` and
    ``agents`` use another pool, so that administration and validation cannot starve each other.
    """

    tokens: TokenVerifier
    agents: AgentVerifier
    administrators: TokenVerifier
    manage: ManageIdentity
    watch: WatchService


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """``ibex.auth.v1.AuthService``, as ``proto/`` defines it. Methods raise the domain's errors.

    ``Gate`` has checked the service credential before a validation call arrives here.
    """

    def __init__(self, identity: IdentityUseCases, callers: Callers, pauses: PauseDetector) -> None:
        self._identity = identity
        self._callers = callers
        self._pauses = pauses

    async def ValidateToken(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.ValidateTokenRequest, context: Context
    ) -> auth_pb2.ValidateTokenResponse:
        """Return the principal of a token. Raises ``InvalidTokenError``, ``ServiceDegradedError``, ``TimeoutError``."""
        token = PersonalAccessToken.parse(request.access_token)
        if token is None:
            raise InvalidTokenError
        return principal_message(await self._within_deadline(context, self._identity.tokens.verify(token)))

    async def ValidateAgent(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.ValidateAgentRequest, context: Context
    ) -> auth_pb2.ValidateAgentResponse:
        """Return an organization's agent with its status."""
        org_id, agent_id = parse_uuid("org_id", request.org_id), parse_uuid("agent_id", request.agent_id)
        return agent_message(await self._within_deadline(context, self._identity.agents.verify(org_id, agent_id)))

    async def Watch(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[auth_pb2.WatchRequest], _context: Context
    ) -> AsyncIterator[auth_pb2.WatchResponse]:
        """Yield every change of every organization, and the answers to pings."""
        async for response in self._identity.watch.watch(request_iterator):
            yield response

    async def TokenFilter(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.TokenFilterRequest, _context: Context
    ) -> auth_pb2.TokenFilterResponse:
        """Return a page of live tokens, or their number."""
        return await self._identity.watch.token_filter(request)

    async def CreateToken(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.CreateTokenRequest, context: Context
    ) -> auth_pb2.CreateTokenResponse:
        """Create a token that grants no more than the caller's own token."""
        org_id = parse_uuid("org_id", request.org_id)
        caller = await self._callers.admit_administrator(_metadata(context), org_id, Permission.TOKEN_CREATE)
        grant = grant_in(request)
        check_grant(caller, grant)
        token = await self._identity.manage.create_token(org_id, grant)
        return auth_pb2.CreateTokenResponse(token_id=str(token.token_id), access_token=token.reveal())

    async def RevokeToken(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.RevokeTokenRequest, context: Context
    ) -> auth_pb2.RevokeTokenResponse:
        """Revoke a token of the organization."""
        org_id = parse_uuid("org_id", request.org_id)
        await self._callers.admit_administrator(_metadata(context), org_id, Permission.TOKEN_REVOKE)
        await self._identity.manage.revoke_token(org_id, parse_uuid("token_id", request.token_id))
        return auth_pb2.RevokeTokenResponse()

    async def ListTokens(  # noqa: N802 - the protocol's name
        self, request: auth_pb2.ListTokensRequest, context: Context
    ) -> auth_pb2.ListTokensResponse:
        """Return a page of the organization's tokens, oldest first."""
        org_id = parse_uuid("org_id", request.org_id)
        either = (Permission.TOKEN_CREATE, Permission.TOKEN_REVOKE)
        await self._callers.admit_administrator(_metadata(context), org_id, *either)
        size, after = page_size_in(request), position_in(request)
        return page_message(await self._identity.manage.tokens(org_id, after, size + 1), size)

    async def _within_deadline(self, context: Context, verified: Awaitable[T]) -> T:
        """Return the result of a lookup. Raises ``ServiceDegradedError`` before the caller's deadline passes.

        A proxy may serve cached identity if auth reports that the database does not answer, but not after a timeout.
        If this process was paused, the pause may be why the lookup is late, and it proves nothing about the database.
        The call then raises ``TimeoutError`` instead.
        """
        remaining_s: Any = context.time_remaining()  # None without a deadline; the type stub says float
        if remaining_s is None:
            return await verified
        # asyncio.timeout would wait for the end of the cancelled task, which takes long on a stalled connection.
        task = asyncio.ensure_future(verified)
        task.add_done_callback(_retrieve)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await asyncio.wait([task], timeout=remaining_s * SOURCE_DEADLINE_SHARE)
            if not task.done():
                was_paused = self._pauses.ended_after(began_s - AFTER_PAUSE_S, loop.time())
                raise TimeoutError if was_paused else ServiceDegradedError
            return task.result()
        finally:
            task.cancel()
            del task  # it may hold the error, whose traceback holds this frame


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()  # otherwise asyncio logs an error that no task retrieves


def _metadata(context: Context) -> Metadata:
    return context.invocation_metadata() or ()
