"""Undoing a compression that was not asked for."""

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
        """Yield what a chunk holds, none of it empty; raises ``UnreadableResponseError``."""
        while chunk:
            if self._inflater.eof:  # one more member of the same file
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
        """The stream is over; raises ``UnreadableResponseError`` if it should not be."""
        if not self._is_whole:
            raise UnreadableResponseError
