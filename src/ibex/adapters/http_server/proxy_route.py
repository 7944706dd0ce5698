"""The route of an operation: between an HTTP request and the use case, in both directions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.client_connection import ClientConnection
from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.domain.errors import (
    ClientClosedRequestError,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    UnsupportedMediaTypeError,
)
from ibex.domain.proxying.capacity import Reservation
from ibex.domain.proxying.proxy_request import BufferedResponse, IncomingRequest, RefusedResponse, shutting_down

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Receive, Scope, Send
    from ibex.adapters.http_server.client_connection import Limits
    from ibex.adapters.http_server.context import RequestContext
    from ibex.adapters.http_server.errors import ErrorAnswers
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.operation import Operation
    from ibex.domain.proxying.proxy_request import ProxyRequest, ProxyResponse
    from ibex.domain.proxying.streaming import StreamedResponse

_ENDS = {None: False, "false": False, "true": True}
_WRONG_SESSION_END = (FieldError("X-IBEX-Session-End", FieldCode.INVALID_ENUM, "must be true or false"),)


class ProxyRoute:
    """A raw ASGI application: the framework's own request and response objects cost more than all stages together."""

    def __init__(
        self,
        operation: Operation,
        proxy_request: ProxyRequest,
        errors: ErrorAnswers,
        observer: RequestObserver,
        limits: Limits,
        capacity: Capacity,
    ) -> None:
        self._operation = operation
        self._proxy_request = proxy_request
        self._errors = errors
        self._observer = observer
        self._limits = limits
        self._capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A client that has gone gets nothing."""
        reservation = Reservation(self._capacity)
        context = context_of(scope)
        try:
            async with ClientConnection(scope, receive, send, self._limits) as client:
                try:
                    reply = await self._proxy_request(self._incoming(scope, context, client, reservation))
                    context.in_flight = reply.in_flight
                    await self._reply(reply, context, client)
                except asyncio.CancelledError:
                    if client.gone:
                        raise
                    # The server ends and would wait no longer. This task ends here too: raising would make it log one.
                    await self._tell(shutting_down(), context, client)
        finally:
            reservation.release()

    async def _reply(self, reply: ProxyResponse, context: RequestContext, client: ClientConnection) -> None:
        if isinstance(reply, BufferedResponse):
            await client.answer(Response(200, JSON, reply.body, exchange_headers(reply.in_flight)))
        elif isinstance(reply, RefusedResponse):
            await self._tell(reply.error, context, client)
        else:
            await self._stream(reply, context, client)

    async def _stream(self, stream: StreamedResponse, context: RequestContext, client: ClientConnection) -> None:
        try:
            await client.begin_stream(exchange_headers(stream.in_flight))
            async for chunk in stream:
                await client.send_chunk(chunk)
            await client.end_stream()
        except IbexError as error:
            await self._tell(error, context, client)
        except Exception as error:  # noqa: BLE001 - the status line is out: this is the last place where it can be told
            self._observer.failed(error)
            await self._tell(InternalError(), context, client)
        except asyncio.CancelledError:
            await stream.aclose(None if client.gone else shutting_down())
            raise
        finally:
            await stream.aclose()

    async def _tell(self, error: IbexError, context: RequestContext, client: ClientConnection) -> None:
        """Say what went wrong, in the way that is still open."""
        if isinstance(error, ClientClosedRequestError):
            return
        if not client.answered:
            await client.answer(self._errors.answer(error, context))
        elif client.streaming:
            envelope = self._errors.encoded_envelope(error, context)
            await client.end_stream(self._operation.error_event(envelope))

    def _incoming(
        self, scope: Scope, context: RequestContext, client: ClientConnection, reservation: Reservation
    ) -> IncomingRequest:
        session_end = context.field(b"x-ibex-session-end")
        if session_end is not None:
            session_end = session_end.lower()
        return IncomingRequest(
            operation=self._operation,
            request_id=context.request_id,
            trace_id=context.trace_id,
            credentials=context.credentials(scope),
            read_body=partial(_read_body, context, client, reservation),
            reservation=reservation,
            has_gone=lambda: client.gone,
            session_handle=context.field(b"x-ibex-session-id"),
            ends_session=_ENDS.get(session_end, False),
            wrong_fields=() if session_end in _ENDS else _WRONG_SESSION_END,
        )


async def _read_body(context: RequestContext, client: ClientConnection, reservation: Reservation) -> bytes:
    """Return the body, after checks of the headers that describe it."""
    media_type, _, _ = (context.field(b"content-type") or "").partition(";")
    if media_type.strip(" \t").lower() != "application/json":
        raise UnsupportedMediaTypeError
    if context.field(b"content-encoding") not in (None, "", "identity"):
        raise UnsupportedMediaTypeError("The request body must not be compressed.")
    length = context.field(b"content-length")
    return await client.read_body(int(length) if length and length.isdecimal() else None, reservation)
