"""Checks of the request line and headers that the parser does not make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.http_server.errors import NotHttpError
from ibex.domain.errors import HeadersTooLargeError

if TYPE_CHECKING:
    from httptools import HttpRequestParser

    from ibex.adapters.http_server.asgi import Headers
    from ibex.domain.errors import IbexError

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 256
_LINE_ENDS: Final = {"1.0": b" HTTP/1.0\r\n", "1.1": b" HTTP/1.1\r\n"}
_UPGRADE_HEADERS: Final = {b"connection", b"proxy-connection", b"http2-settings"}
_FOREIGN_METHODS: Final = {b"SOURCE", b"PRI"}
"""Methods of ICE and HTTP/2, which the parser accepts. The parser itself refuses those of RTSP."""


def end_of_request_line(
    method: bytes, url: bytes, version: str, read: bytes, start: int, *, is_first: bool
) -> int | None:
    """Return where a request line ends in ``read``, from ``start`` on; None if it is not valid (RFC 9112).

    The parser accepts RTSP/1.0 and ICE/1.0 as HTTP/1.0, and also repeated spaces and fragments. It does not report
    where a request begins within a read, so this function searches for the line of a pipelined request.
    """
    line_end = _LINE_ENDS.get(version)
    if line_end is None or method in _FOREIGN_METHODS or b"#" in url:
        return None
    line = b"%b %b%b" % (method, url, line_end)
    at = read.find(line, start)
    if at < 0 or (at > 0 and is_first and read[:at].strip(b"\r\n")):
        return None
    return at + len(line)


def head_without_upgrade(parser: HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """Return the head of a request that offers an upgrade as it is without the offer."""
    line = b"%b %b HTTP/%b" % (parser.get_method(), url, parser.get_http_version().encode())
    kept = [b"%b: %b" % header for header in headers if header[0] not in _UPGRADE_HEADERS]
    return b"\r\n".join([line, *kept, b"", b""])


def offers_websocket(upgrade: bytes) -> bool:
    """Return whether the value of an Upgrade header, a list of protocols, contains WebSocket."""
    return any(protocol.strip(b" \t").lower() == b"websocket" for protocol in upgrade.split(b","))


def header_error(url: bytes, headers: Headers, version: str, read_bytes: int) -> IbexError | None:
    """Return the error in a request's headers (size, Host, Transfer-Encoding; RFC 9112), or None if they are valid.

    ``read_bytes`` is the size of the reads that the head came with, which may contain more than the head.
    """
    hosts, wrong_coding, chunked = 0, False, False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            wrong_coding = chunked or value.lower() != b"chunked"
            chunked = True
    if len(headers) > MAX_HEADERS or (read_bytes > MAX_HEAD_BYTES and _size(url, headers) > MAX_HEAD_BYTES):
        return HeadersTooLargeError()
    wrong_host = hosts > 1 or (hosts == 0 and version == "1.1")
    return NotHttpError() if wrong_host or wrong_coding or (chunked and version == "1.0") else None


def _size(url: bytes, headers: Headers) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)
