"""One connection to a server, and the answer that is being read from it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import httptools
import httpx

from ibex.domain.deadline import GRACE_S, LATE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_BYTES: Final = 64 * 1024
MAX_UNREAD_BYTES: Final = 32 * 1024  # with a read, and what waits for the client, 256 KiB at most
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256
_JOINED_BYTES: Final = 16 * 1024
"""What is cheaper to copy, into one piece with its head, than to write as a piece of its own."""
_FIRST_BYTE: Final = ord("H")
_KEEPALIVE_PROBES: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))  # 3 minutes in all


class StaleConnectionError(httpx.RemoteProtocolError):
    """A connection that had been kept was closed by the server before a byte of the answer came.

    It had most likely been closed before the request was on its way (RFC 9112, section 9.3.1).
    """


class Owner(Protocol):
    """The owner of a connection. The connection reports its state by these calls, which do not wait."""

    def connected(self, connection: Http1Connection) -> None:
        """The connection is made."""

    def released(self, connection: Http1Connection) -> None:
        """An answer was read to its end. The connection can be used again if it is open; if not, close it."""

    def lost(self, connection: Http1Connection) -> None:
        """The connection is closed."""


class Http1Connection(asyncio.BufferedProtocol):
    """Sends one request at a time and feeds what arrives to its ``Http1Response``. Never reads far ahead of the reader.

    ``buffer`` is where the operating system puts what is read; it may be shared by all connections of an event loop,
    since it is emptied before another one is read. A connection on which anything was out of order is closed.
    """

    def __init__(self, owner: Owner, buffer: memoryview) -> None:
        self._owner = owner
        self._buffer = buffer
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser: httptools.HttpResponseParser = cast("httptools.HttpResponseParser", None)
        self._reply: Http1Response | None = None
        self._paused = False
        self._spoilt = False
        self._until_eof = False
        self._bytes_beside_body = 0
        self.requests = 0
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent on it, as far as is known."""
        return not self._spoilt and not self._transport.is_closing()

    @property
    def is_in_use(self) -> bool:
        """Whether there is an answer on it that its reader has not closed."""
        return self._reply is not None

    @property
    def ssl_object(self) -> Any:
        """The TLS layer, None where there is none."""
        return self._transport.get_extra_info("ssl_object")

    def send(self, head: bytes, body: bytes) -> Http1Response:
        """Send a request; return the answer to come, which must be closed."""
        self.requests += 1
        self._bytes_beside_body = 0
        self._reply = reply = Http1Response(self)
        if len(body) <= _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return reply

    def close(self) -> None:
        """Close it now, whatever is still to be sent or read. Idempotent."""
        self._spoilt = True
        self._transport.abort()

    def finish(self, reply: Http1Response) -> None:
        """The reader has left: give the connection back, unless something of the exchange is still under way."""
        if self._reply is not reply:
            return
        self._reply = None
        if not reply.is_complete or self._transport.get_write_buffer_size():
            self.close()
            return
        self.resume()
        self._owner.released(self)

    def resume(self) -> None:
        """Read on, after the reader had fallen behind."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport. A peer that vanishes without a word, while a model thinks, is found out by probes."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)  # it refers to this connection, until that is lost
        sock = transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE_PROBES:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._owner.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the buffer to read into."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        reply = self._reply
        if reply is None:  # bytes that answer nothing
            self.close()
            return
        if not self._bytes_beside_body and self._buffer[0] != _FIRST_BYTE:  # llhttp passes over empty lines
            self._fail(httpx.RemoteProtocolError("the answer is no HTTP"))
            return
        self._bytes_beside_body += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx.RemoteProtocolError("the answer is no HTTP"))
        if self._bytes_beside_body > MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError("the answer's head is too large"))
        if reply.unread_bytes > MAX_UNREAD_BYTES and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
        reply.wake()

    def eof_received(self) -> None:
        """Take the server's last word: the end of a body that has no other, else of everything."""
        reply = self._reply
        if reply is not None and self._until_eof and reply.failure is None:
            reply.is_complete = True
            reply.wake()
        self._spoilt = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reader and the owner."""
        self._spoilt = True
        reply = self._reply
        if reply is not None and not reply.is_complete and reply.failure is None:
            reply.fail(_of_losing(exc, reply, reused=self.requests > 1))
        del self._parser
        self._owner.lost(self)

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin an answer; after the one that was asked for none may come."""
        if self._reply is None or self._reply.is_complete:
            self._spoilt = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is none (RFC 9110, section 6.5.1)."""
        reply = self._reply
        if reply is not None and not reply.has_head:
            reply.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand out the head, unless it is only an interim one (RFC 9110, section 15.2). Raising ends the parsing."""
        reply = self._reply
        if reply is None or reply.has_head:
            return
        status = self._parser.get_status_code()
        if status < 200:  # noqa: PLR2004
            reply.headers.clear()
            return
        if len(reply.headers) > MAX_HEADERS:
            raise ValueError("too many headers")
        reply.status = status
        reply.http_version = self._parser.get_http_version()
        is_chunked, has_length = False, False
        for name, value in reply.headers:
            if name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked":
                    raise ValueError("a transfer coding that was not asked for")
                is_chunked = True
            elif name == b"content-length":
                has_length = True
        self._until_eof = not is_chunked and not has_length
        reply.has_head = True

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._bytes_beside_body = 1
        if self._reply is not None and not self._reply.is_complete:
            self._reply.take(data)

    def on_message_complete(self) -> None:
        """End the answer, if this was it."""
        reply = self._reply
        if reply is None or not reply.has_head:
            return
        reply.is_complete = True
        if not self._parser.should_keep_alive():
            self._spoilt = True

    def _fail(self, failure: Exception) -> None:
        """Close the connection; an answer that is whole already is not harmed by what comes after it."""
        if self._reply is not None and not self._reply.is_complete:
            self._reply.fail(failure)
        self.close()


class Http1Response(httpx.AsyncByteStream):
    """The answer to one request, as it arrives: first the head, then the body by iterating. One task may read it.

    Reading raises ``TimeoutError`` at ``read_by``, in the event loop's time; None is no limit. One timer is for all
    that is read of an answer: one for every event of a stream would cost as much as reading it.
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
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # uvloop's handle of what is due at once does not know when

    async def head(self) -> None:
        """Return once status and headers are here; raises what went wrong before."""
        while not self.has_head:
            if self.failure is not None:
                raise self.failure
            await self._progress()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return what has come since the last time; raises what went wrong once all that came before it was read."""
        while not self._pieces:
            if self.failure is not None:
                raise self.failure
            if self.is_complete:
                raise StopAsyncIteration
            await self._progress()
        pieces, self._pieces = self._pieces, []
        self.unread_bytes = 0
        self.connection.resume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def header(self, name: str) -> str:
        """Return a field's value, of a repeated one all with commas (RFC 9110, section 5.3); "" where there is none."""
        wanted, values = name.encode("ascii"), []
        for own, value in self.headers:
            if own == wanted:
                values.append(value)
        return b", ".join(values).decode("latin-1")

    def rest(self) -> bytes | None:
        """Return what was not read of the body, if its end is here; else None."""
        if not self.is_complete:
            return None
        pieces = self.unread()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def discard_connection(self) -> None:
        """Close the connection, though the answer is complete."""
        self.connection.close()

    async def aclose(self) -> None:
        """Give the connection back if the answer is complete, else close it. Idempotent, and does not wait."""
        if self.failure is None and not self.is_complete:
            self.fail(httpx.ReadError("closed while it was read"))
        if self.failure is not None:
            self.failure.__traceback__ = None  # its frames lead back to here
        self._pieces = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connection.finish(self)

    def unread(self) -> list[bytes]:
        """Give out what has come and was not read yet."""
        pieces = self._pieces
        self._pieces = []
        self.unread_bytes = 0
        return pieces

    def take(self, data: bytes) -> None:
        """Keep a part of the body for the reader."""
        self._pieces.append(data)
        self.unread_bytes += len(data)

    def fail(self, failure: Exception) -> None:
        """Nothing more will come."""
        self.failure = failure
        self.wake()

    def wake(self) -> None:
        """Wake the reader, which waits for progress."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _progress(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        if self.read_by is not None and (self._timer is None or self._due > self.read_by):
            self._set_timer(loop, self.read_by)
        await self._waiter

    def _set_timer(self, loop: asyncio.AbstractEventLoop, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = moment
        self._timer = loop.call_at(moment, self._look_at_the_clock, loop)

    def _look_at_the_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the reader's waiting if its time is up; it may have read since the timer was set, and have more time.

        If the loop stood still, what came meanwhile is looked for first (``deadline``).
        """
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self.read_by is None:
            return
        if loop.time() < self.read_by:
            self._set_timer(loop, self.read_by)
            return
        if loop.time() - self._due >= LATE_S:
            self._set_timer(loop, loop.time() + GRACE_S)
            return
        self._waiter = None
        waiter.set_exception(TimeoutError())


def _of_losing(exc: Exception | None, reply: Http1Response, *, reused: bool) -> Exception:
    if reused and not reply.status and not reply.headers:
        return StaleConnectionError("the server had closed a kept connection")
    if exc is not None:
        return httpx.ReadError("the connection was lost")
    return httpx.RemoteProtocolError("the server closed the connection before the answer was complete")
