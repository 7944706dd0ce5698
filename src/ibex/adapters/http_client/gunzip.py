"""Decompression of gzip responses, which some servers send although the client does not accept gzip."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from ibex.adapters.http_client.failures import UnreadableResponseError

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES: Final = 64 * 1024
_GZIP: Final = zlib.MAX_WBITS | 16


class Gunzip:
    """Inflates a gzip stream (RFC 1952) in bounded pieces, up to ``max_bytes`` in all."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._inflater = zlib.decompressobj(_GZIP)
        self._is_whole = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decompressed pieces of a chunk, none of them empty. Raises ``UnreadableResponseError``."""
        while chunk:
            if self._inflater.eof:  # gzip allows several members in one stream
                self._inflater = zlib.decompressobj(_GZIP)
            try:
                piece = self._inflater.decompress(chunk, PIECE_BYTES)
            except zlib.error:
                raise UnreadableResponseError from None
            self._is_whole = self._inflater.eof
            self._left -= len(piece)
            if self._left < 0:
                raise UnreadableResponseError
            if piece:
                yield piece
            chunk = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail

    def finish(self) -> None:
        """Check the end of the stream. Raises ``UnreadableResponseError`` if it is truncated."""
        if not self._is_whole:
            raise UnreadableResponseError
