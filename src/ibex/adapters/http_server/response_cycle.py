"""The ASGI cycle of one request and its response, based on uvicorn's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from ibex.adapters.http_server.asgi import BODY, START

if TYPE_CHECKING:
    from weakref import ref

    from uvicorn._types import ASGI3Application, ASGIReceiveEvent
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    from ibex.adapters.http_server.asgi import Headers, Message
    from ibex.domain.errors import IbexError

_JOINED_BYTES: Final = 16 << 10
"""Bodies up to this size are copied behind the head, which costs less than a separate write."""
_WITHOUT_BODY: Final = {204, 304}
_UPGRADE_REQUIRED: Final = 426
_FAILED: Final = b"Internal Server Error"


class ResponseCycle(RequestResponseCycle):
    """A cycle that writes headers without checking them, and head and body together.

    uvicorn's cycle checks each name and value with a regular expression, which costs as much as making the response. It
    writes head and body separately, so that the client wakes up twice. This class requires header names in lower case
    and holds the head of a response of known length until the body follows.

    A response that begins before the end of the request's body closes the connection: the cycle clears ``keep_alive``,
    which the protocol reads at the end of the response.
    """

    refusal: IbexError | None = None
    """The error that ``receive`` raises, because the rest of the body cannot be read."""
    server_state: ServerState
    """Has the current default headers. The protocol sets it."""
    _held = b""
    _until_closed = False

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application. ``OuterMiddleware`` handles all exceptions, so one that arrives here is a bug."""
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]  # typed for its own messages
        except BaseException as error:
            self.logger.error("Unhandled exception in the ASGI application.", exc_info=error)  # noqa: TRY400
        try:
            if not self.response_complete and not self.disconnected:
                await self._break_off()
        finally:
            self.on_response = _do_nothing  # break the reference cycle with the connection

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next part of the body. Raises ``refusal`` if it is set."""
        message = await super().receive()
        if self.refusal is not None and not self.response_complete and not self.disconnected:
            raise self.refusal
        return message

    def refuse(self, error: IbexError) -> None:
        """Make ``receive`` raise an error, because the rest of the body cannot be read."""
        self.refusal = error
        self.message_event.set()

    async def send(self, message: Message) -> None:  # type: ignore[override]  # typed for its own messages
        """Send a part of the response; do nothing if the client has disconnected."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        # The most frequent case comes first: a part of a stream. ``in`` avoids the call of ``get``.
        if self.chunked_encoding and "more_body" in message and message["more_body"]:
            chunk = message["body"]
            if chunk:
                self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            return
        kind = message["type"]
        if kind != (BODY if self.response_started else START) or self.response_complete:
            raise RuntimeError(f"the application sent {kind} out of order")
        if kind == START:
            self._begin(message["status"], message["headers"])
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: Headers) -> None:
        """Send the head of the response, or hold it until the body comes."""
        if self.more_body:
            self.keep_alive = False
        # Not ``self.default_headers``, whose Date is that of the request's arrival (RFC 9110, section 6.6.1).
        fields, has_length = [*self.server_state.default_headers, *headers], False
        for name, value in fields:
            if name == b"content-length":
                self.expected_content_length, has_length = int(value), True
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
        kept = [field for field in fields if field[0] != b"connection"]
        is_open = not has_length and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY
        if is_open and self.scope["http_version"] == "1.0":  # without chunked coding (RFC 9112, 6.1)
            self._until_closed, self.keep_alive = True, False
        elif is_open:
            self.chunked_encoding = True
            kept.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive or status == _UPGRADE_REQUIRED:
            kept.append((b"connection", self._connection_options(status)))
        head = response_head(status, kept)
        self.response_started, self.waiting_for_100_continue = True, False
        if has_length:
            self._held = head
        else:
            self.transport.write(head)

    def _connection_options(self, status: int) -> bytes:
        """Return the value of the Connection header, which must list the Upgrade header of a 426 (RFC 9110, 7.8)."""
        if status == _UPGRADE_REQUIRED:
            return b"upgrade" if self.keep_alive else b"upgrade, close"
        return b"close"

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.chunked_encoding:
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
        else:
            self._send_counted(body, more=more)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response()

    def _send_counted(self, body: bytes, *, more: bool) -> None:
        """Send a part of a body without chunking: it has a length, is ended by the connection, or answers HEAD."""
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        if not self._until_closed:
            left = self.expected_content_length - len(body)
            if left < 0 or (left and not more):
                raise RuntimeError("the body of the response is not as long as its content-length")
            self.expected_content_length = left
        head, self._held = self._held, b""
        if head or body:
            write_joined(self.transport, head, body)

    async def _break_off(self) -> None:
        """Close the connection after an application error, with a bare 500 if nothing was sent yet."""
        self.keep_alive = False
        if not self.response_started:
            self.more_body, self.chunked_encoding, self._until_closed = True, False, False
            await self.send({"type": START, "status": 500, "headers": [(b"content-length", b"%d" % len(_FAILED))]})
            await self.send({"type": BODY, "body": _FAILED})
            return
        self.response_complete = True
        self.message_event.set()
        self.on_response()


def response_head(status: int, fields: Headers) -> bytes:
    """Return the head of a response, with the blank line. Raises ``RuntimeError`` for a header with a line break."""
    head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n"
    lines = len(fields) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\x00" in head:
        raise RuntimeError("a header of the response contains a line break or a NUL")
    return head


def write_joined(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """Write the head of a response and a body in one call."""
    if len(body) > _JOINED_BYTES:
        transport.writelines((head, body))
    else:
        transport.write(head + body)


def last_cycle(connection: HttpToolsProtocol) -> ResponseCycle:
    """Return a cycle for the last response on a connection, to a request whose body is not read."""
    return ResponseCycle(
        scope=connection.scope,
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=connection.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=False,
        on_response=connection.on_response_complete,
    )


def _do_nothing() -> None:
    """Do nothing."""


def whole_body(weak: ref[RequestResponseCycle]) -> bytes | None:
    """Return a request's body if it has arrived completely and the client is connected; else None."""
    cycle = weak()
    if cycle is None or cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected:
        return None
    return bytes(cycle.body)
