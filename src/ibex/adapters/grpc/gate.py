"""The way of a call to its handler: credential, place, message, in this order (ADR 0038)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from ibex.adapters.grpc.connections import Standing
from ibex.adapters.grpc.front import connection_of
from ibex.adapters.grpc.lanes import CallKind, LaneLimits, WaitingRoom, first_message
from ibex.adapters.grpc.metadata import bearer_in
from ibex.adapters.grpc.statuses import ServiceCredentialError
from ibex.domain.errors import FieldCode, FieldError, ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from ibex.adapters.grpc.callers import Callers
    from ibex.adapters.grpc.connections import ConnectionTable

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Any  # a grpc.RpcMethodHandler, whose stub knows no asynchronous ones


class Gate:
    """Lets calls through to their handlers, as many of each kind as there may be."""

    def __init__(self, callers: Callers, connections: ConnectionTable, limits: LaneLimits) -> None:
        self._callers = callers
        self._connections = connections
        self._lanes = limits.lanes()
        self._named_health = limits.lanes()[CallKind.HEALTH]
        self._waiting = WaitingRoom()

    def proved_nothing(self, context: Context) -> None:
        """Note a call that nobody needs to be trusted for."""
        self._connections.called(connection_of(context.peer()))

    async def run(self, kind: CallKind, handler: Handler, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Return the handler's answer. Raises ``ServiceCredentialError``, ``TooManyCallsError``, and what it raises."""
        connection = connection_of(context.peer())
        if self._is_service(kind, context, connection):
            with self._named_health if kind is CallKind.HEALTH else self._lanes[kind]:
                return await _answer(handler, await first_message(requests), context)
        self._connections.called(connection)
        message = await self._waiting.first_message(requests)
        with self._lanes[kind]:
            response = await _answer(handler, message, context)
        if kind is CallKind.ADMINISTRATION:
            self._connections.proved(connection, Standing.ADMINISTRATOR)
        return response

    def _is_service(self, kind: CallKind, context: Context, connection: str) -> bool:
        """Tell whether a service calls. Raises ``ServiceCredentialError`` if it must and does not.

        Anybody may check health; one that presents a credential learns whether it is the right one.
        """
        if kind is CallKind.ADMINISTRATION:
            return False
        metadata = context.invocation_metadata() or ()
        if kind is CallKind.HEALTH and self._callers.need_credential and bearer_in(metadata) is None:
            return False
        try:
            self._callers.admit_service(metadata)
        except ServiceCredentialError:
            self._connections.called(connection)
            raise
        self._connections.proved(connection, Standing.SERVICE)
        return True


async def _answer(handler: Handler, request: bytes, context: Context) -> bytes:
    """Read the message here, not in the library: it would answer one that cannot be read as a bug, and log it."""
    try:
        message = handler.request_deserializer(request)
    except DecodeError:
        wrong = FieldError("message", FieldCode.INVALID_FORMAT, "cannot be read")
        raise ValidationError((wrong,)) from None
    response: bytes = handler.response_serializer(await handler.unary_unary(message, context))
    return response
