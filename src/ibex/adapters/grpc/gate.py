"""The checks before a call reaches its handler: the credential, the concurrency limit and the message (ADR 0038)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from ibex.adapters.grpc.call_limits import CallKind, CallLimits, PendingCalls, first_message
from ibex.adapters.grpc.connections import PeerRole
from ibex.adapters.grpc.metadata import bearer_in
from ibex.adapters.grpc.relay import connection_of
from ibex.adapters.grpc.statuses import ServiceCredentialError
from ibex.domain.errors import FieldCode, FieldError, ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from ibex.adapters.grpc.callers import Callers
    from ibex.adapters.grpc.connections import GrpcConnections

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Any  # a grpc.RpcMethodHandler; its type stub has no asynchronous handlers


class Gate:
    """Checks calls and runs their handlers, within a concurrency limit for each kind."""

    def __init__(self, callers: Callers, connections: GrpcConnections, limits: CallLimits) -> None:
        self._callers = callers
        self._connections = connections
        self._limits = limits.by_kind()
        self._service_health_limit = limits.by_kind()[CallKind.HEALTH]
        self._waiting = PendingCalls()

    def count_unknown_method(self, context: Context) -> None:
        """Count a call of an unknown method against its connection, unless the connection has authenticated."""
        self._connections.count_unauthenticated_call(connection_of(context.peer()), is_unknown=True)

    async def run(self, kind: CallKind, handler: Handler, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Check a unary call, run its handler and return the encoded response.

        Raises ``ServiceCredentialError``, ``TooManyCallsError``, ``ValidationError`` for a message that is missing or
        cannot be decoded, and what the handler raises.
        """
        connection = connection_of(context.peer())
        if self._is_service(kind, context, connection):
            with self._service_health_limit if kind is CallKind.HEALTH else self._limits[kind]:
                return await _answer(handler, await first_message(requests), context)
        self._connections.count_unauthenticated_call(connection)
        message = await self._waiting.first_message(requests)
        with self._limits[kind]:
            response = await _answer(handler, message, context)
        if kind is CallKind.ADMINISTRATION:
            self._connections.authenticated(connection, PeerRole.ADMINISTRATOR)
        return response

    async def stream(self, handler: Handler, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Check a stream of the watch and yield its encoded responses.

        Raises ``ServiceCredentialError``, ``TooManyCallsError``, and what the handler raises.
        """
        self._is_service(CallKind.WATCH, context, connection_of(context.peer()))
        with self._limits[CallKind.WATCH]:
            async for response in handler.stream_stream(_messages(handler, requests), context):
                yield handler.response_serializer(response)

    def _is_service(self, kind: CallKind, context: Context, connection: str) -> bool:
        """Return whether the caller is a service. Raises ``ServiceCredentialError`` if it must be one and is not.

        A health check needs no credential, but a wrong one is refused.
        """
        if kind is CallKind.ADMINISTRATION:
            return False
        metadata = context.invocation_metadata() or ()
        if kind is CallKind.HEALTH and self._callers.need_credential and bearer_in(metadata) is None:
            return False
        try:
            self._callers.admit_service(metadata)
        except ServiceCredentialError:
            self._connections.count_unauthenticated_call(connection)
            raise
        self._connections.authenticated(connection, PeerRole.SERVICE)
        return True


async def _messages(handler: Handler, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _message(handler, request)


async def _answer(handler: Handler, request: bytes, context: Context) -> bytes:
    """Decode the message, run the handler and encode the response.

    If grpc decoded the message itself, it would log one that cannot be decoded, and report it as an internal error.
    """
    message = _message(handler, request)
    response: bytes = handler.response_serializer(await handler.unary_unary(message, context))
    return response


def _message(handler: Handler, request: bytes) -> Any:
    try:
        return handler.request_deserializer(request)
    except DecodeError:
        wrong = FieldError("message", FieldCode.INVALID_FORMAT, "is not a valid message of this method")
        raise ValidationError((wrong,)) from None
