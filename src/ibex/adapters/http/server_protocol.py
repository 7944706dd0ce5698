"""uvicorn's HTTP protocol, with what ASGI lacks and what the parser is too lenient about (faults.md)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ibex.adapters.http.client import CUT
from ibex.adapters.http.edge import REFUSED
from ibex.adapters.http.errors import HeadTooLargeError, NotHttpError

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Scope
    from ibex.domain.errors import IbexError

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 256
_VERSIONS: Final = {"1.0", "1.1"}
_OF_THE_UPGRADE: Final = {b"connection", b"upgrade", b"http2-settings"}


class CuttableHttpProtocol(HttpToolsProtocol):
    """Lets an application cut off a client that has stopped reading.

    Closing a connection first waits for what is still to be sent, which such a client never takes; this drops it.
    Besides: a request's head is bounded, its trailers are no headers, an upgrade that is offered is not taken, and what
    is no HTTP ends the connection, with an envelope unless another answer is still being sent.
    """

    _in_head = True
    _head_bytes = 0
    _found_wrong: IbexError | None = None
    _refused = False

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is refused or the head that is being read has grown too large."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._found_wrong or NotHttpError())
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self._refused:
            self._refuse(HeadTooLargeError())

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:  # may be ignored (RFC 9110, 7.8), but the parser stops for it
            method, kept = self.parser.get_method(), [h for h in self.headers if h[0] not in _OF_THE_UPGRADE]
            lines = [b"%b %b HTTP/1.1" % (method, self.url), *(b"%b: %b" % header for header in kept), b"", b""]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(b"\r\n".join(lines) + data[offered.args[0] :])

    def on_message_begin(self) -> None:
        """Begin a request; its scope gets the extension ``client.CUT``."""
        super().on_message_begin()
        self.scope["extensions"] = {CUT: self.transport.abort}  # type: ignore[dict-item]  # typed for its own extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is none (RFC 9110, 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request over, or raise why not."""
        self._found_wrong = self._wrong_with_head()
        if self._found_wrong is not None:
            raise self._found_wrong
        if not self.parser.should_upgrade():
            self._in_head = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may begin."""
        if not self._in_head:
            super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def _wrong_with_head(self) -> IbexError | None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            return HeadTooLargeError()
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        wrong_host = hosts > 1 or (hosts == 0 and version == "1.1")  # RFC 9112, 3.2
        return NotHttpError() if version not in _VERSIONS or wrong_host or codings not in ([], [b"chunked"]) else None

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
