"""The header fields that a request may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.http.request_fields import MAX_HEAD_BYTES, MAX_HEADERS, wrong_with_fields

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Headers

HOST = (b"host", b"a")
CHUNKED = (b"transfer-encoding", b"chunked")


def test_one_host_and_one_coding() -> None:
    """HTTP/1.0 needs no host, and has no codings."""
    assert wrong_with_fields(b"/", [HOST, CHUNKED], "1.1") is None
    assert wrong_with_fields(b"/", [], "1.0") is None
    wrong: tuple[Headers, ...] = (
        [],
        [HOST, HOST],
        [HOST, CHUNKED, CHUNKED],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
    )
    found = [wrong_with_fields(b"/", fields, "1.1") for fields in wrong]
    found.append(wrong_with_fields(b"/", [HOST, CHUNKED], "1.0"))
    assert [error and error.code for error in found] == ["VALIDATION_ERROR"] * 5


def test_fields_are_bounded() -> None:
    """In number and, with the URL, in bytes."""
    assert wrong_with_fields(b"/", [HOST] + [(b"x", b"")] * (MAX_HEADERS - 1), "1.1") is None
    many = wrong_with_fields(b"/", [HOST] + [(b"x", b"")] * MAX_HEADERS, "1.1")
    large = wrong_with_fields(b"/" * MAX_HEAD_BYTES, [HOST], "1.1")
    assert [error and error.code for error in (many, large)] == ["HEADERS_TOO_LARGE"] * 2
