"""The chat route: between an HTTP request and the use case, in both directions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ibex.adapters.http.asgi import JSON, Answer
from ibex.adapters.http.chat_request import read_chat_request_in_steps
from ibex.adapters.http.client import Client
from ibex.adapters.http.context import context_of
from ibex.adapters.http.exchange_headers import exchange_headers
from ibex.domain.complete_chat import ChatAnswer, ChatCall, ChatRefusal, shutting_down
from ibex.domain.errors import (
    ClientClosedRequestError,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    UnsupportedMediaTypeError,
    ValidationError,
)
from ibex.domain.fair_share import Reservation

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Receive, Scope, Send
    from ibex.adapters.http.client import Limits
    from ibex.adapters.http.context import RequestContext
    from ibex.adapters.http.errors import ErrorAnswers
    from ibex.adapters.http.observer import RequestObserver
    from ibex.domain.chat import ChatRequest
    from ibex.domain.chat_stream import ChatStream
    from ibex.domain.complete_chat import ChatReply, CompleteChat
    from ibex.domain.fair_share import Capacity

_ENDS = {None: False, "false": False, "true": True}


class ChatRoute:
    """A raw ASGI application: the framework's own request and response objects cost more than all stages together."""

    def __init__(
        self,
        complete_chat: CompleteChat,
        errors: ErrorAnswers,
        observer: RequestObserver,
        limits: Limits,
        capacity: Capacity,
    ) -> None:
        self._complete_chat = complete_chat
        self._errors = errors
        self._observer = observer
        self._limits = limits
        self._capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A client that has gone gets nothing."""
        reservation = Reservation(self._capacity)
        context = context_of(scope)
        try:
            async with Client(scope, receive, send, self._limits) as client:
                try:
                    reply = await self._complete_chat(_call(scope, context, client, reservation))
                    context.notes = reply.notes
                    await self._reply(reply, context, client)
                except asyncio.CancelledError:
                    if client.gone:
                        raise
                    # The server ends and would wait no longer. This task ends here too: raising would make it log one.
                    await self._tell(shutting_down(), context, client)
        finally:
            reservation.release()

    async def _reply(self, reply: ChatReply, context: RequestContext, client: Client) -> None:
        if isinstance(reply, ChatAnswer):
            await client.answer(Answer(200, JSON, reply.body, exchange_headers(reply.notes)))
        elif isinstance(reply, ChatRefusal):
            await self._tell(reply.error, context, client)
        else:
            await self._stream(reply, context, client)

    async def _stream(self, stream: ChatStream, context: RequestContext, client: Client) -> None:
        try:
            await client.begin_stream(exchange_headers(stream.notes))
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

    async def _tell(self, error: IbexError, context: RequestContext, client: Client) -> None:
        """Say what went wrong, in the way that is still open."""
        if isinstance(error, ClientClosedRequestError):
            return
        if not client.answered:
            await client.answer(self._errors.answer(error, context))
        elif client.streaming:
            await client.end_stream(self._errors.event(error, context))


def _call(scope: Scope, context: RequestContext, client: Client, reservation: Reservation) -> ChatCall:
    session_end = context.field(b"x-ibex-session-end")
    if session_end is not None:
        session_end = session_end.lower()
    return ChatCall(
        request_id=context.request_id,
        trace_id=context.trace_id,
        credentials=context.credentials(scope),
        read_request=partial(_read_request, context, client, reservation, session_end),
        reservation=reservation,
        has_gone=lambda: client.gone,
        session_handle=context.field(b"x-ibex-session-id"),
        ends_session=session_end in _ENDS and _ENDS[session_end],
    )


async def _read_request(
    context: RequestContext, client: Client, reservation: Reservation, session_end: str | None
) -> ChatRequest:
    """Read and understand the body; what is wrong with a header that only now matters is told together with it."""
    media_type, _, _ = (context.field(b"content-type") or "").partition(";")
    if media_type.strip(" \t").lower() != "application/json":
        raise UnsupportedMediaTypeError
    if context.field(b"content-encoding") not in (None, "", "identity"):
        raise UnsupportedMediaTypeError("The request body must not be compressed.")
    wrong_headers: tuple[FieldError, ...] = ()
    if session_end not in _ENDS:
        wrong_headers = (FieldError("X-IBEX-Session-End", FieldCode.INVALID_ENUM, "must be true or false"),)
    length = context.field(b"content-length")
    body = await client.read_body(int(length) if length and length.isdecimal() else None, reservation)
    try:
        request = await read_chat_request_in_steps(body)
    except ValidationError as error:
        raise ValidationError((*wrong_headers, *error.field_errors)) from None
    if wrong_headers:
        raise ValidationError(wrong_headers)
    return request
