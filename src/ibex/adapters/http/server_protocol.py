"""uvicorn's HTTP protocol, with what ASGI lacks and what the parser is too lenient about (faults.md)."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, cast
from weakref import ref

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ibex.adapters.http.asgi import BODY, START
from ibex.adapters.http.client import CUT, WATCH, WHOLE_BODY
from ibex.adapters.http.edge import REFUSED
from ibex.adapters.http.errors import HeadTooLargeError, NotHttpError
from ibex.domain.deadline import PatientTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application, ASGISendEvent

    from ibex.adapters.http.asgi import Headers, Message, Scope
    from ibex.domain.errors import IbexError

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 256
MAX_PIPELINED: Final = 8
"""With more requests waiting behind a running one nothing is read, so that it is not heard when the client leaves."""
_JOINED_BYTES: Final = 16 << 10
"""What is cheaper to copy, into one piece with what stands before it, than to write as a piece of its own."""
_OF_THE_CONNECTION: Final = {b"connection", b"transfer-encoding"}
_WITHOUT_BODY: Final = {204, 304}
_VERSIONS: Final = {"1.0", "1.1"}
_OF_THE_UPGRADE: Final = {b"connection", b"upgrade", b"http2-settings"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, a head may take from its first byte on, and a client read nothing of what waits for it."""

    head_s: float = 10.0
    stall_s: float = 60.0


class CuttableHttpProtocol(HttpToolsProtocol):
    """Lets an application cut off a client, and does so itself to one that stops reading or never ends its head.

    Closing a connection first waits for what is still to be sent, which such a client never takes; this drops it.
    Besides: a request's head is bounded, its trailers are no headers, an upgrade that is offered is not taken, and what
    is no HTTP ends the connection, with an envelope unless another answer is still being sent.
    """

    patience: ClassVar[Patience] = Patience()
    _left: Callable[[], None] | None = None
    _head_timer: PatientTimer | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _found_wrong: IbexError | None = None
    _refused = False
    _running: RequestResponseCycle | None = None

    @classmethod
    def with_patience(cls, patience: Patience) -> type[CuttableHttpProtocol]:
        """Return this protocol with other limits; uvicorn makes its instances itself."""
        return type(cls.__name__, (cls,), {"patience": patience})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
        """Begin; a connection on which nothing comes is closed like one that was kept and is not used."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and no timer outlives it; uvicorn itself tells only the request that came last, not one before it."""
        running, self._running = self._running, None
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        self.scope = self.cycle = None  # type: ignore[assignment]  # as before the first; both lead back to here
        self.pipeline.clear()
        left, self._left = self._left, None
        if left is not None:
            left()
        for timer in (self._head_timer, self._stall_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()

    def _watch(self, left: Callable[[], None]) -> None:
        """Call ``left`` when the connection is lost before the answer to the running request is complete.

        Only who reads hears of that: its body, if it is large, has stopped the reading, and so have requests behind it.
        """
        self._left = left
        self._read_on()

    def _read_on(self) -> None:
        if len(self.pipeline) <= MAX_PIPELINED:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """The answer is complete: its client may leave."""
        self._left = self._running = None
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The client reads too slowly: watch whether it reads at all."""
        super().pause_writing()
        self._watch_reading(math.inf, 0.0)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()

    def _watch_reading(self, unsent: float, since: float) -> None:
        now, still_unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if still_unsent < unsent:
            unsent, since = still_unsent, now
        elif now - since >= self.patience.stall_s:
            self.transport.abort()
            return
        self._stall_timer = self.loop.call_later(self.patience.stall_s / 4, self._watch_reading, unsent, since)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is refused or the head that is being read has grown too large."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # CONNECT stops it again
            self._refuse(self._found_wrong or NotHttpError())
        if self._in_head and self._head_bytes and not self._refused:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLargeError())
            elif self._head_timer is None:
                self._head_timer = PatientTimer(self.loop.time() + self.patience.head_s, self.transport.abort)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:  # may be ignored (RFC 9110, 7.8), but the parser stops for it
            method, kept = self.parser.get_method(), [h for h in self.headers if h[0] not in _OF_THE_UPGRADE]
            lines = [b"%b %b HTTP/1.1" % (method, self.url), *(b"%b: %b" % header for header in kept), b"", b""]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(b"\r\n".join(lines) + data[offered.args[0] :])

    def on_message_begin(self) -> None:
        """Begin a request; its scope gets the extensions ``client.CUT`` and ``client.WATCH``."""
        super().on_message_begin()
        extensions = {CUT: self.transport.abort, WATCH: self._watch}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # typed for its own extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is none (RFC 9110, 6.5.1)."""
        if self._in_head:  # as its base does, which would take another call for each header
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Hand the request over, or raise why not; its scope gets the extension ``client.WHOLE_BODY``."""
        self._found_wrong = self._wrong_with_head()
        if self._found_wrong is not None:
            raise self._found_wrong
        if not self.parser.should_upgrade():
            self._in_head = False
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            super().on_headers_complete()
            # weakly: the cycle has the scope, and what refers to itself is left for the collector (ADR 0033)
            whole_body = partial(_whole_body, ref(self.cycle))
            self.scope["extensions"][WHOLE_BODY] = whole_body  # type: ignore[assignment]  # the same
            # its task has been made, but not run
            self.cycle.__class__ = UnchunkedCycle if self.parser.get_http_version() == "1.0" else QuickCycle
            if self._left is not None:
                self._read_on()

    def on_message_complete(self) -> None:
        """The next head may begin."""
        if not self._in_head:
            super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def _wrong_with_head(self) -> IbexError | None:
        size, hosts, wrong_coding, chunked = len(self.url), 0, False, False
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                wrong_coding = chunked or value.lower() != b"chunked"
                chunked = True
        if len(self.headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            return HeadTooLargeError()
        version = self.parser.get_http_version()
        wrong_host = hosts > 1 or (hosts == 0 and version == "1.1")  # RFC 9112, 3.2
        wrong_target = b"#" in self.url  # a fragment is not sent (RFC 9112, 3.2)
        return NotHttpError() if version not in _VERSIONS or wrong_host or wrong_coding or wrong_target else None

    def _refuse(self, why: IbexError) -> None:
        """Let the application tell why, and close; an answer that is being sent is only cut off."""
        self._refused = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self.transport.abort()
            return
        self.on_message_begin()
        scope = cast("Scope", self.scope)
        scope.update({"method": "", "path": "", "raw_path": b"", "query_string": b"", "headers": []})
        scope["extensions"][REFUSED] = why
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)


def _whole_body(weak: ref[RequestResponseCycle]) -> bytes | None:
    """Return a request's body if all of it is here, and nothing else of it has been received."""
    cycle = weak()
    if cycle is None or cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected:
        return None
    return bytes(cycle.body)


class QuickCycle(RequestResponseCycle):
    """A request whose answer is written as it is given: the application's header names are in lower case.

    Its base looks at each name and value with a regular expression, which costs as much as making the answer, and at
    each chunk of a stream as if it were any message; and it writes head and body of an answer one after the other, each
    of which wakes the client. The head of an answer whose length is known is kept back here until its body comes; of an
    application that fails before that, nothing has been sent, and the connection is closed.
    """

    _head = b""

    async def send(self, message: Message) -> None:  # type: ignore[override]  # typed for its own messages
        """Send a part of the answer."""
        head, self._head = self._head, b""
        if not self.flow.write_paused and not self.disconnected and not self.response_complete:
            if not self.response_started:
                if message["type"] == START and self._begun(message["status"], message["headers"]):
                    return
            elif head:
                if self._answered(head, message):
                    return
            elif self.chunked_encoding and message.get("more_body") and message["body"]:
                chunk = message["body"]
                self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                return
        if head and not self.disconnected:
            self.transport.write(head)
        await super().send(cast("ASGISendEvent", message))

    def _answered(self, head: bytes, message: Message) -> bool:
        """Send the whole answer; False, and nothing is sent, if the message is not all of its body."""
        if message["type"] != BODY or message.get("more_body") or self.scope["method"] == "HEAD":
            return False
        body = message.get("body", b"")
        if len(body) != self.expected_content_length:
            return False
        if len(body) <= _JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        _complete(self, keep_alive=self.keep_alive)
        return True

    def _begun(self, status: int, headers: Headers) -> bool:
        """Begin the answer; False, and nothing is done, if it says something of the connection, as refusals may."""
        lines, has_length = [STATUS_LINE[status]], False
        for name, value in [*self.default_headers, *headers]:
            if name == b"content-length":
                self.expected_content_length, has_length = int(value), True
            elif name in _OF_THE_CONNECTION:
                return False
            lines.append(b"%b: %b\r\n" % (name, value))
        self.chunked_encoding = not has_length and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\x00" in head:
            raise RuntimeError("a header holds what no header can")
        self.response_started, self.waiting_for_100_continue = True, False
        if has_length:
            self._head = head + b"\r\n"
        else:
            self.transport.write(head + b"\r\n")
        return True


class UnchunkedCycle(RequestResponseCycle):
    """A request of HTTP/1.0: an answer without a length ends with the connection, for it knows no chunks."""

    _until_closed = False

    async def send(self, message: Message) -> None:  # type: ignore[override]  # typed for its own messages
        """Send a part of the answer."""
        if message["type"] == START:
            self._until_closed = all(name != b"content-length" for name, _ in message["headers"])
            if self._until_closed:
                self.chunked_encoding = False
        if message["type"] == START or not self._until_closed:
            await super().send(cast("ASGISendEvent", message))
            return
        await self.flow.drain()
        if self.disconnected:
            return
        self.transport.write(message.get("body", b""))
        if not message.get("more_body", False):
            _complete(self, keep_alive=False)


def _complete(cycle: RequestResponseCycle, *, keep_alive: bool) -> None:
    """End an answer that was written past uvicorn, as that does."""
    cycle.response_complete = True
    cycle.message_event.set()
    if not keep_alive:
        cycle.transport.close()
    cycle.on_response()
