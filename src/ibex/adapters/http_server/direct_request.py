"""Direct requests: from the bytes of a read to the use case, without uvicorn's cycle and ASGI messages (ADR 0051).

A request is direct if IBEX knows it completely: it arrives whole and alone, on a connection that serves no other
request, for a route that is listed, and its head has no unusual form. All other requests take the path by ASGI. The
parser and the ASGI cycle cost 35 µs of a request's CPU time, this module half of that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ibex.adapters.http_server.client_connection import KEEP_ALIVE, ClientConnection
from ibex.adapters.http_server.context import NO_REQUEST, bearer_token
from ibex.adapters.http_server.request_fields import MAX_HEAD_BYTES, MAX_HEADERS
from ibex.adapters.http_server.response_cycle import response_head, write_joined
from ibex.domain.errors import InternalError
from ibex.domain.identity.model import has_token_shape

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.server import ServerState

    from ibex.adapters.http_server.asgi import Headers, Message, Response
    from ibex.adapters.http_server.client_connection import Limits
    from ibex.adapters.http_server.context import RequestContext
    from ibex.domain.clock import Clock

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name, a token (RFC 9110, section 5.6.2)."""
_CONTROLS: Final = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
"""The characters that no header may contain: all controls except the tab (RFC 9110, section 5.5)."""
_UNUSUAL: Final = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"proxy-connection", b"trailer", b"origin")
)
"""Headers that change how a request is read or answered. With any of them, a request is not direct."""
_MAX_LENGTH_DIGITS: Final = 10
_NAMES_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class DirectRoute:
    """A route whose requests can be direct. It takes POST requests without a query.

    ``serve`` serves a request, given its path template: ``ProxyRoute.serve``.
    """

    path: str
    path_template: str
    serve: Callable[[RequestContext, ClientConnection, str], Awaitable[None]]
    limits: Limits
    method: str = "POST"


class DirectRoutes:
    """The routes whose requests can be direct, with the parser of their requests."""

    def __init__(
        self, routes: Iterable[DirectRoute], serve: Callable[[DirectClient], Coroutine[Any, Any, None]], clock: Clock
    ) -> None:
        """Set the routes, and the function that serves a request."""
        self._routes = {b"%b %b HTTP/1.1\r\n" % (r.method.encode(), r.path.encode()): r for r in routes}
        self.serve = serve
        self._clock = clock

    def parse(self, data: bytes) -> DirectRequest | None:
        """Return the request that these bytes are; None if it is not direct, or needs more bytes, or is invalid."""
        line = data.find(b"\r\n") + 2
        route = self._routes.get(data[:line])
        if route is None:
            return None
        head_end = data.find(b"\r\n\r\n", line) + 2
        if head_end < line or head_end > MAX_HEAD_BYTES:
            return None
        fields = _fields(data[line:head_end])
        if fields is None or b"host" not in fields or not fields.keys().isdisjoint(_UNUSUAL):
            return None
        body = data[head_end + 2 :]
        if not _has_length(fields, len(body)) or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        token = bearer_token(fields.get(b"authorization", b"").decode("latin-1"))
        if token is None or not has_token_shape(token):  # refused by the head alone (ADR 0047)
            return None
        return DirectRequest(route, fields, body)

    def client(self, request: DirectRequest, connection: Connection) -> DirectClient:
        """Return the client of a request, which ``serve`` takes."""
        return DirectClient(request, connection, self._clock)


@dataclass(frozen=True, slots=True, repr=False)
class DirectRequest:
    """A parsed request. The fields have lower-case names, none of them twice."""

    route: DirectRoute
    fields: dict[bytes, bytes]
    body: bytes


class Connection(Protocol):
    """The connection of a direct request, as the server's protocol implements it."""

    transport: asyncio.Transport
    flow: FlowControl
    server_state: ServerState

    def watch(self, on_left: Callable[[], None]) -> None:
        """Call ``on_left`` when the connection is lost before the response is complete."""

    def on_response_complete(self) -> None:
        """Begin the next request, or close the connection."""


class _NoEvent:
    """An event that nothing awaits: uvicorn sets one when a connection is lost."""

    def set(self) -> None:
        """Do nothing."""


class DirectClient(ClientConnection):
    """The client of a direct request. It writes to the transport.

    uvicorn's protocol and its subclass see it as the running cycle: ``disconnected``, ``keep_alive``,
    ``response_complete``, ``more_body`` and ``message_event`` are the cycle's.
    """

    more_body = False
    message_event: Final = _NoEvent()

    def __init__(self, request: DirectRequest, connection: Connection, clock: Clock) -> None:
        super().__init__(request.route.limits)
        self.route = request.route
        self.fields = request.fields
        self.context = NO_REQUEST
        self.status: int | None = None
        self.disconnected = self.response_complete = False
        self.keep_alive = True
        self._body: bytes | None = request.body
        self._connection: Connection | None = connection
        self._transport = connection.transport
        self._flow = connection.flow
        self._server_state = connection.server_state
        self._clock = clock

    def end(self) -> None:
        """Close the connection if the response is not complete. Break the reference cycle with the connection."""
        if not self.response_complete:
            self.keep_alive = False
            self._complete()
        self._connection = None

    def _whole_body(self) -> bytes | None:
        body, self._body = self._body, None  # the use case releases it
        return body

    async def _receive(self) -> Message:
        raise InternalError  # the body was whole

    def _watch(self, on_left: Callable[[], None]) -> None:
        if self._connection is not None and not self.disconnected:
            self._connection.watch(on_left)
        else:
            on_left()

    async def _send_response(self, response: Response) -> None:
        body = response.body
        length = (b"content-length", b"%d" % len(body))
        head = self._head(response.status, [(b"content-type", response.content_type), length, *response.headers])
        if not await self._is_writable():
            return
        write_joined(self._transport, head, body)
        self._complete()

    async def _send_head(self, headers: Headers) -> None:
        head = self._head(200, [*headers, (b"transfer-encoding", b"chunked")])
        if await self._is_writable():
            self._transport.write(head)

    async def _send_part(self, part: bytes) -> None:
        while part and not self._send_part_now(part):
            if not await self._is_writable():
                return

    def _send_part_now(self, part: bytes) -> bool:
        if self._flow.write_paused or self.disconnected:
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    async def _send_end(self, last: bytes) -> None:
        if await self._is_writable():
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n")
            self._complete()

    def _send_comment(self) -> None:
        if not self._flow.write_paused and not self.disconnected:
            self._transport.write(b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE))

    async def _is_writable(self) -> bool:
        """Wait until the client has read most of what was written. Return False if it has disconnected."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        return not self.disconnected

    def _head(self, status: int, fields: Headers) -> bytes:
        """Return the head of the response, with the common headers, and note the status."""
        self.status, context = status, self.context
        took_ms = (self._clock.monotonic_ns() - context.started_ns) / 1e6
        added = common_headers(context, took_ms)
        if not self.keep_alive:
            added.append((b"connection", b"close"))
        # Read now: uvicorn replaces the Date once a second, and the request may have taken longer (RFC 9110, 6.6.1).
        return response_head(status, [*self._server_state.default_headers, *fields, *added])

    def _complete(self) -> None:
        self.response_complete = True
        if self._connection is not None:
            self._connection.on_response_complete()


def common_headers(context: RequestContext, took_ms: float) -> Headers:
    """Return the headers of every response. ``took_ms`` is the time until its head, in milliseconds."""
    return [
        (b"x-request-id", str(context.request_id).encode("ascii")),
        (b"x-trace-id", context.trace_id.encode("ascii")),
        (b"x-response-time", b"%.3f" % took_ms),
    ]


def _fields(head: bytes) -> dict[bytes, bytes] | None:
    """Return the header fields of complete lines; None if one is invalid, or if two have the same name."""
    lines = head.split(b"\r\n")
    lines.pop()
    if len(lines) > MAX_HEADERS or len(head.translate(None, _CONTROLS)) != len(head) - 2 * len(lines):
        return None
    fields: dict[bytes | None, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            return None
        fields[_lower_case(name)] = value.lstrip(b" \t")
    return None if None in fields or len(fields) != len(lines) else cast("dict[bytes, bytes]", fields)


@lru_cache(maxsize=_NAMES_KEPT)  # clients repeat their names, and this halves the time to parse
def _lower_case(name: bytes) -> bytes | None:
    """Return a header's name in lower case; None if it is not a token."""
    return name.lower() if _NAME.fullmatch(name) else None


def _has_length(fields: Mapping[bytes, bytes], size: int) -> bool:
    """Return whether Content-Length says that a body has this size, in digits alone."""
    length = fields.get(b"content-length", b"")
    return length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS and int(length) == size
