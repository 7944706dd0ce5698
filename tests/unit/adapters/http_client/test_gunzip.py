"""Tests of bounded decompression."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.http_client.failures import UnreadableResponseError
from ibex.adapters.http_client.gunzip import PIECE_BYTES, Gunzip

PLENTY = 1 << 20


def inflate(chunks: list[bytes], max_bytes: int = PLENTY) -> list[bytes]:
    """Return the decompressed pieces of these chunks."""
    gunzip = Gunzip(max_bytes)
    pieces = [piece for chunk in chunks for piece in gunzip.feed(chunk)]
    gunzip.finish()
    return pieces


@given(texts=st.lists(st.binary(max_size=50), max_size=3), step=st.integers(1, 40))
def test_inflating_returns_the_original_data(texts: list[bytes], step: int) -> None:
    """The stream may be cut anywhere and have several members (RFC 1952, section 2.2)."""
    data = b"".join(gzip.compress(text) for text in texts)
    chunks = [data[i : i + step] for i in range(0, len(data), step)]
    pieces = inflate(chunks)
    assert b"".join(pieces) == b"".join(texts)
    assert all(pieces)


def test_a_highly_compressed_chunk_is_inflated_in_bounded_pieces() -> None:
    """A piece has at most 64 KiB, independent of the compression ratio."""
    pieces = inflate([gzip.compress(bytes(1_000_000))])
    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= PIECE_BYTES


def test_more_than_the_limit_is_refused_before_it_is_inflated() -> None:
    """A decompression bomb is inflated only a little beyond the limit."""
    pieces: list[bytes] = []
    gunzip = Gunzip(100_000)
    with pytest.raises(UnreadableResponseError):
        pieces.extend(gunzip.feed(gzip.compress(bytes(50_000_000))))
    assert sum(map(len, pieces)) <= 100_000


@pytest.mark.parametrize("data", [b"not gzip at all", gzip.compress(b"text")[:-1], gzip.compress(b"text") + b"junk"])
def test_an_invalid_gzip_stream_is_refused(data: bytes) -> None:
    """This includes a stream that is truncated or followed by other data."""
    with pytest.raises(UnreadableResponseError):
        inflate([data])


def test_an_empty_body_is_valid() -> None:
    """It is valid even if the response declares it as gzip."""
    assert inflate([]) == []
