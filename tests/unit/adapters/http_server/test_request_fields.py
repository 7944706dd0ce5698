"""Tests of the checks of request headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.adapters.http_server.request_fields import MAX_HEAD_BYTES, MAX_HEADERS, header_error, offers_websocket

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Headers

HOST = (b"host", b"a")
CHUNKED = (b"transfer-encoding", b"chunked")
LARGE_READ = 2 * MAX_HEAD_BYTES
"""The size of a read with a body behind the head."""


def test_a_missing_or_repeated_host_and_other_transfer_codings_are_refused() -> None:
    """HTTP/1.1 needs one Host and allows only ``chunked``. HTTP/1.0 needs no Host and has no transfer codings."""
    assert header_error(b"/", [HOST, CHUNKED], "1.1", LARGE_READ) is None
    assert header_error(b"/", [], "1.0", LARGE_READ) is None
    wrong: tuple[Headers, ...] = (
        [],
        [HOST, HOST],
        [HOST, CHUNKED, CHUNKED],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
    )
    found = [header_error(b"/", fields, "1.1", LARGE_READ) for fields in wrong]
    found.append(header_error(b"/", [HOST, CHUNKED], "1.0", LARGE_READ))
    assert [error and error.code for error in found] == ["VALIDATION_ERROR"] * 5


def test_too_many_or_too_large_headers_are_refused() -> None:
    """The limits are on the number of headers, and on the bytes of URL and headers together."""
    assert header_error(b"/", [HOST] + [(b"x", b"")] * (MAX_HEADERS - 1), "1.1", LARGE_READ) is None
    many = header_error(b"/", [HOST] + [(b"x", b"")] * MAX_HEADERS, "1.1", LARGE_READ)
    large = header_error(b"/" * MAX_HEAD_BYTES, [HOST], "1.1", LARGE_READ)
    assert [error and error.code for error in (many, large)] == ["HEADERS_TOO_LARGE"] * 2


@pytest.mark.parametrize(
    ("upgrade", "expected"),
    [
        (b"websocket", True),
        (b"WebSocket", True),
        (b"h2c,\twebsocket ", True),
        (b"h2c", False),
        (b"websocket2, TLS/1.2", False),
        (b"", False),
    ],
)
def test_websocket_is_found_in_a_list_of_protocols(upgrade: bytes, *, expected: bool) -> None:
    """Protocol names are case-insensitive."""
    assert offers_websocket(upgrade) is expected
