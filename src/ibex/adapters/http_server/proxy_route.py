"""The route of an operation: it passes an HTTP request to the use case and sends the response."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.client_connection import AsgiClient
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
from ibex.domain.proxying.operation import NO_TARGET, Target
from ibex.domain.proxying.proxy_request import BufferedResponse, IncomingRequest, RefusedResponse, shutting_down

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Receive, Scope, Send
    from ibex.adapters.http_server.client_connection import ClientConnection, Limits
    from ibex.adapters.http_server.context import RequestContext
    from ibex.adapters.http_server.errors import ErrorResponses
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.operation import Operation
    from ibex.domain.proxying.proxy_request import ProxyRequest, ProxyResponse
    from ibex.domain.proxying.streaming import StreamedResponse

_SESSION_END_VALUES = {None: False, "false": False, "true": True}
_KNOWN_FLAGS = 0b11
"""The flags that the W3C Trace Context defines: sampled, and random trace id. Others must not be forwarded."""
_SESSION_END_ERRORS = (FieldError("X-IBEX-Session-End", FieldCode.INVALID_ENUM, "must be true or false"),)


class ProxyRoute:
    """The route of one operation, for requests by ASGI (ADR 0020) and for direct requests (ADR 0051)."""

    def __init__(
        self,
        operation: Operation,
        proxy_request: ProxyRequest,
        errors: ErrorResponses,
        observer: RequestObserver,
        limits: Limits,
        capacity: Capacity,
    ) -> None:
        self._operation = operation
        self._names_response = "{id}" in operation.path
        self._has_body = operation.method == "POST" and not self._names_response
        self._proxy_request = proxy_request
        self._errors = errors
        self._observer = observer
        self._limits = limits
        self._capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI request."""
        parameters = scope.get("path_params", {})
        target = NO_TARGET
        if self._names_response:
            target = Target(parameters["id"], scope["query_string"].decode("latin-1"))
        client = AsgiClient(scope, receive, send, self._limits)
        await self.serve(context_of(scope), client, scope["path_template"], parameters.get("org_id"), target)

    async def serve(
        self,
        context: RequestContext,
        client: ClientConnection,
        path_template: str,
        org_id: str | None = None,
        target: Target = NO_TARGET,
    ) -> None:
        """Serve one request. If the client has gone, send nothing. ``org_id`` is the organization in the path."""
        reservation = Reservation(self._capacity)
        try:
            async with client:
                try:
                    incoming = self._incoming_request(context, client, reservation, path_template, org_id, target)
                    response = await self._proxy_request(incoming)
                    context.in_flight = response.in_flight
                    await self._send_response(response, context, client)
                except asyncio.CancelledError:
                    if client.gone:
                        raise
                    # The server shuts down. Do not raise: it would log the cancellation as an unhandled exception.
                    await self._send_error(shutting_down(), context, client)
        finally:
            reservation.release()

    async def _send_response(self, response: ProxyResponse, context: RequestContext, client: ClientConnection) -> None:
        if isinstance(response, BufferedResponse):
            await client.send_response(Response(200, JSON, response.body, exchange_headers(response.in_flight)))
        elif isinstance(response, RefusedResponse):
            await self._send_error(response.error, context, client)
        else:
            await self._stream(response, context, client)

    async def _stream(self, stream: StreamedResponse, context: RequestContext, client: ClientConnection) -> None:
        try:
            await client.begin_stream(exchange_headers(stream.in_flight))
            stream.pass_to(client.send_chunk_now)
            async for chunk in stream:
                await client.send_chunk(chunk)
            await client.end_stream()
        except IbexError as error:
            await self._send_error(error, context, client, stream)
        except Exception as error:  # noqa: BLE001 - the status is sent, so only an event can report it
            self._observer.failed(error)
            await self._send_error(InternalError(), context, client, stream)
        except asyncio.CancelledError:
            if client.gone:
                raise
            await stream.aclose(shutting_down())
            await self._send_error(shutting_down(), context, client, stream)
        finally:
            await stream.aclose()

    async def _send_error(
        self,
        error: IbexError,
        context: RequestContext,
        client: ClientConnection,
        stream: StreamedResponse | None = None,
    ) -> None:
        """Report an error to the client: by a response or, once a stream has begun, by an event."""
        if isinstance(error, ClientClosedRequestError):
            return
        if not client.response_started:
            await client.send_response(self._errors.response(error, context))
        elif client.streaming and stream is not None:
            envelope = self._errors.encoded_envelope(error, context)
            await client.end_stream(stream.error_event(envelope))

    def _incoming_request(
        self,
        context: RequestContext,
        client: ClientConnection,
        reservation: Reservation,
        path_template: str,
        org_id: str | None,
        target: Target,
    ) -> IncomingRequest:
        session_header = self._operation.session_header
        session_end = context.field(b"x-ibex-session-end")
        if session_end is not None:
            session_end = session_end.lower()
        return IncomingRequest(
            operation=self._operation,
            request_id=context.request_id,
            trace_id=context.trace_id,
            credentials=context.credentials(org_id),
            read_body=partial(_read_body, context, client, reservation, self._has_body),
            reservation=reservation,
            has_gone=lambda: client.gone,
            target=target,
            session_handle=context.field(b"x-ibex-session-id") or None,
            default_session_handle=None if session_header is None else context.field(session_header),
            ends_session=_SESSION_END_VALUES.get(session_end, False),
            wrong_fields=() if session_end in _SESSION_END_VALUES else _SESSION_END_ERRORS,
            trace_flags=self._trace_flags(context, path_template),
        )

    def _trace_flags(self, context: RequestContext, path_template: str) -> int:
        """Return the flags of ``traceparent`` for the provider: the client's, or those of IBEX's sampling decision."""
        if context.parent is not None:
            return int(context.parent[-2:], 16) & _KNOWN_FLAGS
        return int(self._observer.is_sampled(self._operation.method, path_template))


async def _read_body(
    context: RequestContext,
    client: ClientConnection,
    reservation: Reservation,
    has_body: bool,  # noqa: FBT001
) -> bytes:
    """Check the headers that describe the body, and return the body. Without ``has_body``, a body is ignored."""
    length = context.field(b"content-length")
    declared = int(length) if length and length.isdecimal() else None
    if not has_body:
        await client.read_body(declared, reservation)  # also begins to watch for a client that leaves
        return b""
    media_type, _, _ = (context.field(b"content-type") or "").partition(";")
    if media_type.strip(" \t").lower() != "application/json":
        raise UnsupportedMediaTypeError
    if context.field(b"content-encoding") not in (None, "", "identity"):
        raise UnsupportedMediaTypeError("The request body must not be compressed.")
    return await client.read_body(declared, reservation)
