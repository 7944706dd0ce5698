"""An answer's body, read within its time limits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ibex.adapters.http_client.failures import FAILURES, UnreadableResponseError
from ibex.adapters.http_client.gunzip import Gunzip
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ibex.adapters.http_client.upstream import UpstreamResponse

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_DRAIN_BYTES: Final = 64 * 1024
MAX_DRAIN_S: Final = 0.1


@value_object
class TimeLimits:
    """The moments, in the event loop's time, of the deadline and of the first byte; the longest silence, in seconds."""

    deadline: float
    first_byte: float
    idle_s: float

    def until(self, moment: float) -> TimeLimits:
        """Return these limits with a deadline that is no later than ``moment``."""
        return TimeLimits(min(self.deadline, moment), self.first_byte, self.idle_s)


class ResponseBody:
    """Reads one answer's body; must be closed. Gzip, though not asked for, is undone.

    Reading raises one of ``errors.FAILURES``: ``TimeoutError`` at a limit, the transport's own, or
    ``UnreadableResponseError``.
    """

    def __init__(self, answer: UpstreamResponse, limits: TimeLimits) -> None:
        self.limits = limits
        self._answer = answer
        self._chunks: AsyncIterator[bytes] = aiter(answer)
        self._coding = answer.header("content-encoding").strip().lower()
        self._gunzip = Gunzip(MAX_BODY_BYTES) if self._coding in {"gzip", "x-gzip"} else None
        self._pieces: Iterator[bytes] = iter(())
        self._has_begun = False

    @property
    def is_readable(self) -> bool:
        """Whether its content coding is one that can be undone."""
        return self._gunzip is not None or self._coding in {"identity", ""}

    async def read(self) -> bytes | None:
        """Return the next bytes, never empty; None at the end."""
        if self._gunzip is not None:
            return await self._unzipped(self._gunzip)
        while True:
            chunk = await self._next_chunk()
            if chunk is None or chunk:
                return chunk

    async def _unzipped(self, gunzip: Gunzip) -> bytes | None:
        while True:
            piece = next(self._pieces, None)
            if piece:
                return piece
            chunk = await self._next_chunk()
            if chunk is None:
                gunzip.finish()
                return None
            self._pieces = gunzip.feed(chunk)

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body; raises ``UnreadableResponseError`` if it is larger than ``max_bytes``."""
        rest = self._answer.rest() if self._gunzip is None else None
        if rest is not None and len(rest) <= max_bytes:
            return rest
        pieces, size = [], 0
        while (piece := await self.read()) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise UnreadableResponseError
        return b"".join(pieces)

    async def aclose(self, *, drain: bool = False) -> None:
        """Give the connection back if the body was read to its end, else close it. Idempotent, never raises.

        ``drain``: read first what little may be left, within bounds.
        """
        try:
            if drain:
                self.limits = self.limits.until(asyncio.get_running_loop().time() + MAX_DRAIN_S)
                with suppress(*FAILURES):
                    await self.read_all(MAX_DRAIN_BYTES)
        finally:
            with suppress(Exception):  # the connection is gone either way, and nobody could do anything about it
                await self._answer.aclose()

    async def discard_connection(self) -> None:
        """Close the connection even though the body has ended: what was framed as its end cannot be it.

        What comes after it may still lie in the connection, and would be taken for the answer to the next request.
        """
        with suppress(Exception):
            await self._answer.discard_connection()

    async def _next_chunk(self) -> bytes | None:
        now = asyncio.get_running_loop().time()
        limits = self.limits
        limit = now + limits.idle_s if self._has_begun else limits.first_byte
        limit = min(limit, limits.deadline)
        if limit <= now and self._has_begun:  # a body that is always there at once would never let the timer fire
            raise TimeoutError
        self._answer.read_by = limit
        chunk = await anext(self._chunks, None)
        self._has_begun = True
        return chunk
