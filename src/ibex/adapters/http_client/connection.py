"""An HTTP/1.1 client connection, and the response that is read from it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import httptools
import httpx

from ibex.domain.deadline import GRACE_S, LATE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

READ_BYTES: Final = 64 * 1024
MAX_UNREAD_BYTES: Final = 32 * 1024  # with one read and the data buffered for the client, at most 256 KiB
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256
_MAX_JOINED_BODY_BYTES: Final = 16 * 1024
"""The largest body that is copied behind its head. For larger bodies a separate write costs less than the copy."""
_FIRST_BYTE: Final = ord("H")
_KEEPALIVE_PROBES: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))  # 3 minutes in all


class StaleConnectionError(httpx.RemoteProtocolError):
    """The server closed a reused connection before it sent any byte of a response.

    It most likely closed the connection before it received the request (RFC 9112, section 9.3.1).
    """


class Owner(Protocol):
    """The owner of a connection, usually a pool. The connection reports its state through these methods."""

    def connected(self, connection: Http1Connection) -> None:
        """Called when the connection is established."""

    def released(self, connection: Http1Connection) -> None:
        """Called when a response is complete and closed. Reuse the connection if it is open; otherwise close it."""

    def lost(self, connection: Http1Connection) -> None:
        """Called when the connection is closed."""


class Http1Connection(asyncio.BufferedProtocol):
    """A connection that sends one request at a time and parses its response into an ``Http1Response``.

    It pauses reading when the unread part of the response exceeds ``MAX_UNREAD_BYTES``. ``buffer`` receives the data
    that is read. All connections of an event loop can share one, because each read is processed before the next. After
    a protocol error the connection is closed.
    """

    def __init__(self, owner: Owner, buffer: memoryview) -> None:
        self._owner = owner
        self._buffer = buffer
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser: httptools.HttpResponseParser = cast("httptools.HttpResponseParser", None)
        self._response: Http1Response | None = None
        self._is_reading_paused = False
        self._is_unusable = False
        self._until_eof = False
        self._bytes_since_body = 0
        self._has_received = False
        self.requests = 0
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the connection accepts a request. The server may have closed it already."""
        return not self._is_unusable and not self._transport.is_closing()

    @property
    def is_in_use(self) -> bool:
        """Whether the connection has a response that its reader has not closed."""
        return self._response is not None

    @property
    def ssl_object(self) -> Any:
        """The TLS layer; None for plain TCP."""
        return self._transport.get_extra_info("ssl_object")

    def send(self, head: bytes, body: bytes) -> Http1Response:
        """Send a request and return its response, which has not arrived yet and must be closed."""
        self.requests += 1
        self._bytes_since_body = 0
        self._has_received = False
        self._response = response = Http1Response(self)
        if len(body) <= _MAX_JOINED_BODY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return response

    def close(self) -> None:
        """Close the connection at once and discard unsent data. Idempotent."""
        self._is_unusable = True
        self._transport.abort()

    def finish(self, response: Http1Response) -> None:
        """End a response: release the connection if request and response are complete, otherwise close it."""
        if self._response is not response:
            return
        self._response = None
        if not response.is_complete or self._transport.get_write_buffer_size():
            self.close()
            return
        self.resume()
        self._owner.released(self)

    def resume(self) -> None:
        """Resume reading if it was paused because the reader fell behind. Idempotent."""
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport and enable TCP keep-alive, which detects a dead peer during a long silence."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)  # a reference cycle, which ``connection_lost`` breaks
        sock = transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE_PROBES:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._owner.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the data that was read."""
        response = self._response
        if response is None:  # data that belongs to no request
            self.close()
            return
        if not self._bytes_since_body and self._buffer[0] != _FIRST_BYTE:  # llhttp would skip empty lines
            self._fail(httpx.RemoteProtocolError("the response is not HTTP"))
            return
        self._has_received = True
        self._bytes_since_body += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx.RemoteProtocolError("the response is not HTTP"))
        if self._bytes_since_body > MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError("the head of the response is too large"))
        response.data_arrived()
        is_behind = response.unread_bytes > MAX_UNREAD_BYTES
        if is_behind and not self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Complete a response whose body ends with the connection. The event loop closes the connection."""
        response = self._response
        if response is not None and self._until_eof and response.failure is None:
            response.is_complete = True
            response.wake()
        self._is_unusable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail an incomplete response and notify the owner."""
        self._is_unusable = True
        response = self._response
        if response is not None and not response.is_complete and response.failure is None:
            response.fail(_connection_lost_error(exc, is_stale=self.requests > 1 and not self._has_received))
        del self._parser
        self._owner.lost(self)

    # Called by the parser

    def on_message_begin(self) -> None:
        """Begin a response. A second one, or one without a request, makes the connection unusable."""
        if self._response is None or self._response.is_complete:
            self._is_unusable = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Trailers are ignored (RFC 9110, section 6.5.1)."""
        response = self._response
        if response is not None and not response.has_head:
            response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Complete the head; drop an interim response (RFC 9110, section 15.2). An exception here ends the parsing."""
        response = self._response
        if response is None or response.has_head:
            return
        status = self._parser.get_status_code()
        if status < 200:  # noqa: PLR2004
            response.headers.clear()
            return
        if len(response.headers) > MAX_HEADERS:
            raise ValueError("too many headers")
        response.status = status
        response.http_version = self._parser.get_http_version()
        is_chunked, has_length = False, False
        for name, value in response.headers:
            if name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked":
                    raise ValueError("unsupported transfer coding")
                is_chunked = True
            elif name == b"content-length":
                has_length = True
        self._until_eof = not is_chunked and not has_length
        response.has_head = True

    def on_body(self, data: bytes) -> None:
        """Add a part of the body."""
        self._bytes_since_body = 1
        if self._response is not None and not self._response.is_complete:
            self._response.add_data(data)

    def on_message_complete(self) -> None:
        """Complete the response, unless this ends an interim one."""
        response = self._response
        if response is None or not response.has_head:
            return
        response.is_complete = True
        if not self._parser.should_keep_alive():
            self._is_unusable = True

    def _fail(self, failure: Exception) -> None:
        """Close the connection, and fail the response unless it is complete already."""
        if self._response is not None and not self._response.is_complete:
            self._response.fail(failure)
        self.close()


class Http1Response(httpx.AsyncByteStream):
    """The response to one request. Await ``head`` first, then iterate over the body. Only one task may read it.

    Reading raises ``TimeoutError`` at ``read_by``, in the event loop's time; None means no limit. One timer serves all
    reads of a response, because a timer for each event of a stream would cost as much as reading the event.
    """

    def __init__(self, connection: Http1Connection) -> None:
        self.connection = connection
        self.read_by: float | None = None
        self.status = 0
        self.http_version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.is_complete = False
        self.failure: Exception | None = None
        self.unread_bytes = 0
        self._loop = cast("asyncio.AbstractEventLoop", None)
        self._pieces: list[bytes] = []
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0  # not ``_timer.when()``: uvloop's handle for an immediate callback lacks it

    async def head(self) -> None:
        """Wait until status and headers have arrived. Raises the error that prevents it."""
        while not self.has_head:
            if self.failure is not None:
                raise self.failure
            await self._wait_for_data()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the data that arrived since the last read. Raises an error only after all data before it was read."""
        while not self._pieces:
            if self.failure is not None:
                raise self.failure
            if self.is_complete:
                raise StopAsyncIteration
            await self._wait_for_data()
        data = self.take_unread()
        self.connection.resume()
        return data

    def pass_to(self, take: Callable[[bytes], bool] | None) -> None:
        """Pass the data that arrives while a read waits to ``take``; see ``UpstreamResponse``."""
        self._take = take

    def header(self, name: str) -> str:
        """Return a header's value, "" if it is absent. Repeated ones are joined with commas (RFC 9110, section 5.3)."""
        wanted, values = name.encode("ascii"), []
        for header, value in self.headers:
            if header == wanted:
                values.append(value)
        return b", ".join(values).decode("latin-1")

    def rest(self) -> bytes | None:
        """Return the unread part of the body if the body has arrived completely, else None."""
        return self.take_unread() if self.is_complete else None

    async def discard_connection(self) -> None:
        """Close the connection even if the response is complete."""
        self.connection.close()

    async def aclose(self) -> None:
        """Release the connection if the response is complete, else close it. Idempotent; does not wait."""
        if self.failure is None and not self.is_complete:
            self.fail(httpx.ReadError("the response was closed while it was read"))
        if self.failure is not None:
            self.failure.__traceback__ = None  # break the reference cycle: its frames refer to this response
        self._pieces = []
        self._take = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connection.finish(self)

    def take_unread(self) -> bytes:
        """Return and clear the data that has arrived and was not read yet."""
        pieces, self._pieces = self._pieces, []
        self.unread_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def add_data(self, data: bytes) -> None:
        """Buffer a part of the body for the reader."""
        self._pieces.append(data)
        self.unread_bytes += len(data)

    def fail(self, failure: Exception) -> None:
        """End the response with an error, and wake the reader."""
        self.failure = failure
        self.wake()

    def data_arrived(self) -> None:
        """Pass on the data of one read of the connection, or wake the reader, if it waits for data.

        Passing on saves a future, a turn of the event loop and the way through a dozen coroutines (ADR 0068).
        """
        take, waiter = self._take, self._waiter
        is_waiting = waiter is not None and not waiter.done()
        if take is None or not is_waiting or not self._pieces or self.is_complete or self.failure is not None:
            self.wake()
            return
        data = self.take_unread()
        try:
            if take(data):
                self._limit_wait()
                return
        except Exception as bug:  # noqa: BLE001 - the reader raises it
            self.failure = bug
        else:
            self.add_data(data)
        self.wake()

    def wake(self) -> None:
        """Wake the reader if it waits for data."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait_for_data(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # in Python 3.11, each call is a system call
        self._waiter = self._loop.create_future()
        self._limit_wait()
        await self._waiter

    def _limit_wait(self) -> None:
        if self.read_by is not None and (self._timer is None or self._timer_due > self.read_by):
            self._set_timer(self.read_by)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = when
        self._timer = self._loop.call_at(when, self._check_read_by)

    def _check_read_by(self) -> None:
        """Raise ``TimeoutError`` in the reader if ``read_by`` has passed; if it was moved, set the timer again.

        If the event loop was blocked, first wait a little for data that has arrived (``ibex.domain.deadline``).
        """
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self.read_by is None:
            return
        now = self._loop.time()
        if now < self.read_by:
            self._set_timer(self.read_by)
            return
        if now - self._timer_due >= LATE_S:
            self._set_timer(now + GRACE_S)
            return
        self._waiter = None
        waiter.set_exception(TimeoutError())


def _connection_lost_error(exc: Exception | None, *, is_stale: bool) -> Exception:
    if is_stale:
        return StaleConnectionError("the server had closed a reused connection")
    if exc is not None:
        return httpx.ReadError("the connection was lost")
    return httpx.RemoteProtocolError("the server closed the connection before the response was complete")
