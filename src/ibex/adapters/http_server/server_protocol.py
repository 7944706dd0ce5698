"""A subclass of uvicorn's HTTP protocol with the limits that uvicorn and its parser lack (ADR 0037)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, cast
from weakref import ref

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from ibex.adapters.http_server.client_connection import WATCH, WHOLE_BODY
from ibex.adapters.http_server.client_reading import ClientReading
from ibex.adapters.http_server.closable_protocol import ClosableHttpProtocol
from ibex.adapters.http_server.connections import ConnectionLimits, ConnectionTable, Reading
from ibex.adapters.http_server.errors import NotHttpError
from ibex.adapters.http_server.outer_middleware import REFUSED
from ibex.adapters.http_server.request_fields import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    end_of_request_line,
    head_without_upgrade,
    header_error,
)
from ibex.adapters.http_server.response_cycle import ResponseCycle, last_cycle, whole_body
from ibex.domain.errors import HeadersTooLargeError, OverloadedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    from ibex.adapters.http_server.asgi import Scope
    from ibex.adapters.http_server.connections import State
    from ibex.adapters.http_server.direct_request import DirectRequest, DirectRoutes
    from ibex.adapters.http_server.early_refusal import EarlyRefusal, EarlyRefusals
    from ibex.domain.errors import IbexError

MAX_PIPELINED: Final = 8
"""With more pipelined requests than this, reading pauses, and a disconnect of the client is not detected."""
MAX_QUEUED: Final = 128
"""The maximum number of pipelined requests, about 3 KiB each. A client that sends more is disconnected."""
_FRAMING_PER_BYTE: Final = 16
"""Bytes of chunk framing allowed for each byte of the body."""

_NOTHING_YET, _HEAD, _BODY, _DISCARDED = Reading


class LimitedHttpProtocol(ClosableHttpProtocol):
    """One client connection.

    Heads, trailers and the framing of chunks are limited in size. ``ConnectionTable`` limits how long the connection
    stays in each of its states, and ``ClientReading`` how long it waits for a client to read. The extension
    ``client_connection.WATCH`` reports a disconnect to the application.

    Trailers are not added to the headers. Upgrades are ignored here; the application refuses WebSocket. A
    request that is not valid HTTP ends the connection, with an error response unless another response is being sent.
    """

    table: ClassVar[ConnectionTable | None] = None
    """The table of all connections of a worker; if None, each connection has its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.state = None
        self._table = self.table or ConnectionTable(ConnectionLimits())
        self._client_reading: ClientReading | None = None
        self._on_client_left: Callable[[], None] | None = None
        self._running = None
        self._reading = _NOTHING_YET
        self._read = b""
        self._after_line = 0
        self._is_first_in_read = True
        self._head_bytes = 0
        self._head_is_timed = False
        self._framing_bytes = 0
        self._trailers = 0
        self._error: IbexError | None = None
        self._early: EarlyRefusals | None = getattr(self.app, "early_refusals", None)
        self._direct: DirectRoutes | None = getattr(self.app, "direct_routes", None)
        self._early_refusal: EarlyRefusal | None = None

    @classmethod
    def limited(cls, limits: ConnectionLimits) -> type[LimitedHttpProtocol]:
        """Return a subclass with these limits and a table. uvicorn creates the instances."""
        return type(cls.__name__, (cls,), {"table": ConnectionTable(limits)})

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
        """Join the table. The scope gets no addresses, because looking them up costs more than joining the table."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.scheme = "http"
        if not self._table.join(self):
            self._error = OverloadedError("The proxy has too many connections. Retry later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """End the running request too. uvicorn ends only the last one that arrived."""
        self._table.leave(self)
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        self.scope = self.cycle = None  # type: ignore[assignment]  # break the reference cycles
        self.pipeline.clear()
        left, self._on_client_left = self._on_client_left, None
        if left is not None:
            left()
        if self._client_reading is not None:
            self._client_reading.end()

    def eof_received(self) -> None:
        """Treat a half-closed connection as a disconnect, but let the client read a complete response."""
        if self.transport.get_write_buffer_size():
            if self._running is None:
                self._table.enter(self, self._table.lingering)
            else:
                self.transport.abort()

    def overdue(self, state: State) -> None:
        """Abort the connection, unless unsent response data or paused reading explains the delay."""
        if state is self._table.lingering and self.transport.get_write_buffer_size():
            self._watch_reading()
            self._table.enter(self, state)
        elif self.flow.read_paused and self._running is not None:  # reading is paused, so the rest may have arrived
            self._table.enter(self, state)
        else:
            self.transport.abort()

    def abort(self) -> None:
        """Abort the connection and discard unsent data."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Pause the application until the client has read more, and watch how fast it reads."""
        super().pause_writing()
        self._watch_reading()

    def _watch_reading(self) -> None:
        if self._client_reading is None:
            self._client_reading = ClientReading(self.transport, self._table.limits)
        self._client_reading.begin()

    def watch(self, on_left: Callable[[], None]) -> None:
        """Call ``on_left`` when the connection is lost before the response to the running request is complete.

        The server detects this only while it reads, so this resumes reading after a large body or pipelined requests.
        """
        self._on_client_left = on_left
        self._resume_reading()

    def _resume_reading(self) -> None:
        if len(self.pipeline) <= MAX_PIPELINED:
            self.flow.resume_reading()

    # Responses

    def on_response_complete(self) -> None:
        """Start the next request, or close the connection."""
        running, self._running, self._on_client_left = self._running, None, None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if running is None or not running.keep_alive:
            self._linger()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._table.enter(self, self._table.head if self._head_is_timed else self._table.idle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.__class__ = ResponseCycle
        cast("ResponseCycle", cycle).server_state = self.server_state
        self._running = cycle
        if self._table.is_draining and not self.pipeline:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    # Requests

    def data_received(self, data: bytes) -> None:
        """Serve a direct request at once. Feed the parser with other data, unless data is being discarded."""
        if self._reading == _DISCARDED:
            self._count_discarded(len(data))
            return
        if self._direct is not None and self._is_between_requests():
            request = self._direct.parse(data)
            if request is not None:
                self._serve_directly(self._direct, request)
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._reading == _BODY:
            self._framing_bytes += len(data)
            self._is_first_in_read = False
        else:
            self._head_bytes += len(data)
            self._is_first_in_read = True
        if self._reading == _HEAD:
            self._read += data
        else:
            self._read, self._after_line = data, 0
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # after CONNECT, the parser stops again
            if self._reading != _DISCARDED:
                self._refuse(self._error or NotHttpError())
            return
        if self._early_refusal is not None:
            self._send_early_refusal(keep_alive=False)
        elif self._reading == _HEAD:
            self._limit_head()
        else:
            self._read = b""
            if self._framing_bytes or self.state is self._table.framing:
                self._limit_framing()

    def _is_between_requests(self) -> bool:
        is_idle = self._reading == _NOTHING_YET and self._running is None
        return is_idle and self._error is None and not self._table.is_draining

    def _serve_directly(self, routes: DirectRoutes, request: DirectRequest) -> None:
        self._table.enter(self, self._table.request)
        client = routes.client(request, self)
        self._running = self.cycle = cast("RequestResponseCycle", client)
        task = self.loop.create_task(routes.serve(client))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:  # a server may ignore it (RFC 9110, 7.8), but the parser stops
            head = head_without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self._after_line = 0
            self.parser.feed_data(head + data[offered.args[0] :])

    def _limit_head(self) -> None:
        """Limit the size of an incomplete head, and the time from its first byte."""
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLargeError())
        elif not self._head_is_timed:
            self._head_is_timed = True
            table = self._table
            if self._running is not None:
                table.enter(self, table.pipelined)
            elif self.state is not table.overloaded:
                table.enter(self, table.new if self.state is table.new else table.head)

    def _limit_framing(self) -> None:
        """Limit chunk framing and trailers, in size and time."""
        table = self._table
        if self._framing_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadersTooLargeError())
        elif not self._framing_bytes:
            table.enter(self, table.request)
        elif self.state is not table.framing:
            table.enter(self, table.framing)

    def on_message_begin(self) -> None:
        """Begin a request, and add the extension ``client_connection.WATCH`` to its scope."""
        if self._reading == _DISCARDED:
            raise NotHttpError
        super().on_message_begin()
        self._reading = _HEAD
        extensions = {WATCH: self.watch}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # typed for its own extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Trailers are ignored (RFC 9110, 6.5.1), but limited like headers."""
        if self._reading == _HEAD:  # a copy of the base method, which saves a call for each header
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
            return
        self._trailers += 1
        if self._trailers > MAX_HEADERS:
            self._error = HeadersTooLargeError()
            raise self._error

    def on_headers_complete(self) -> None:
        """Start the request with the extension ``client_connection.WHOLE_BODY``, or raise the error in its head."""
        self._error = self._error or self._head_error()
        if self._error is not None:
            raise self._error
        if not self.parser.should_upgrade():
            self._reading = _BODY
            self._head_is_timed = False
            if self._is_refused_early():
                return
            self._table.enter(self, self._table.request)
            super().on_headers_complete()
            # weak, because the cycle refers to the scope, and a reference cycle would need the GC (ADR 0033)
            body = partial(whole_body, ref(self.cycle))
            self.scope["extensions"][WHOLE_BODY] = body  # type: ignore[assignment]  # see on_message_begin
            if self.pipeline:
                self.cycle.__class__ = ResponseCycle
            if self._on_client_left is not None:
                self._resume_reading()

    def on_body(self, body: bytes) -> None:
        """Buffer a part of the body for the application."""
        if self._early_refusal is not None:
            return
        content = self.cycle.body
        content += body
        if len(content) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()
        if self._framing_bytes:
            self._framing_bytes = max(0, self._framing_bytes - _FRAMING_PER_BYTE * len(body))

    def on_message_complete(self) -> None:
        """End the body."""
        if self._early_refusal is not None:
            keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1"
            self._send_early_refusal(keep_alive=keep_alive and not self._table.is_draining)
        elif self._reading == _BODY:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        if self._reading != _DISCARDED:
            self._reading = _NOTHING_YET
        self._is_first_in_read = False
        self._head_bytes = self._framing_bytes = self._trailers = 0

    def _is_refused_early(self) -> bool:
        """Return whether to refuse the request by its head: only the first of a read, which may contain thousands."""
        if self._early is None or self._running is not None or not self._is_first_in_read:
            return False
        self._early_refusal = self._early.find(self.parser.get_method(), self.url, self.headers)
        return self._early_refusal is not None

    def _send_early_refusal(self, *, keep_alive: bool) -> None:
        """Send the response to a request that is refused by its head. Without ``keep_alive``, discard the rest."""
        refused, self._early_refusal = cast("EarlyRefusal", self._early_refusal), None
        self.server_state.total_requests += 1
        self.transport.write(refused.response(self.server_state.default_headers, keep_alive=keep_alive))
        if keep_alive:
            self._table.enter(self, self._table.idle)
        else:
            self._linger()

    def _head_error(self) -> IbexError | None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        read, start = self._read, self._after_line
        after_line = end_of_request_line(method, self.url, version, read, start, is_first=self._is_first_in_read)
        if after_line is None or len(self.pipeline) >= MAX_QUEUED:
            return NotHttpError()
        self._after_line = after_line
        return header_error(self.url, self.headers, version, len(self._read))

    def _refuse(self, error: IbexError) -> None:
        """Send an error response and close; abort if that would interrupt or overtake another response."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self._discard()
            self._send_refusal(error)
        elif cycle.more_body and not cycle.response_started:
            self._reading = _DISCARDED
            self._read = b""
            self.flow.resume_reading()
            self._table.enter(self, self._table.request)
            cast("ResponseCycle", cycle).refuse(error)
        else:
            self.transport.abort()

    def _send_refusal(self, error: IbexError) -> None:
        origin = [header for header in self.headers or () if header[0] == b"origin"]  # for CORS
        super().on_message_begin()
        self._table.enter(self, self._table.request)
        scope = cast("Scope", self.scope)
        scope.update({"method": "", "path": "", "raw_path": b"", "query_string": b"", "headers": origin})
        scope["extensions"] = {WATCH: self.watch, REFUSED: error}
        self.cycle = last_cycle(self)
        self._start_asgi_task(self.cycle, self.app)
