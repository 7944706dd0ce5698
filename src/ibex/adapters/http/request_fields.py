"""Checks of a request's headers that the parser does not make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.http.errors import NotHttpError
from ibex.domain.errors import HeadersTooLargeError

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Headers
    from ibex.domain.errors import IbexError

MAX_HEAD_BYTES: Final = 64 << 10
MAX_HEADERS: Final = 256


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
