"""The body of a response, read within time limits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ibex.adapters.http_client.failures import FAILURES, UnreadableResponseError
from ibex.adapters.http_client.gunzip import Gunzip
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ibex.adapters.http_client.upstream import UpstreamResponse

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_DRAIN_BYTES: Final = 64 * 1024
MAX_DRAIN_S: Final = 0.1


@value_object
class TimeLimits:
    """The time limits of reading a body.

    ``deadline`` and ``first_byte`` are points in the event loop's time. An infinite ``deadline`` means no time
    limit. ``idle_s`` is the longest silence, in seconds.
    """

    deadline: float
    first_byte: float
    idle_s: float

    def until(self, moment: float) -> TimeLimits:
        """Return these limits with a deadline that is no later than ``moment``."""
        return TimeLimits(min(self.deadline, moment), self.first_byte, self.idle_s)


class ResponseBody:
    """The body of one response. It must be closed. Gzip is decompressed, although requests do not ask for it.

    Reading raises one of ``failures.FAILURES``: ``TimeoutError`` at a time limit, the transport's exceptions, or
    ``UnreadableResponseError``.
    """

    def __init__(self, response: UpstreamResponse, limits: TimeLimits) -> None:
        self.limits = limits
        self._response = response
        self._chunks: AsyncIterator[bytes] = aiter(response)
        self._coding = response.header("content-encoding").strip().lower()
        self._gunzip = Gunzip(MAX_BODY_BYTES) if self._coding in {"gzip", "x-gzip"} else None
        self._pieces: Iterator[bytes] = iter(())
        self._has_begun = False
        self._loop = asyncio.get_running_loop()
        self._take: Callable[[bytes], bool] | None = None

    @property
    def is_readable(self) -> bool:
        """Whether the content coding is supported: none, identity or gzip."""
        return self._gunzip is not None or self._coding in {"identity", ""}

    def pass_to(self, take: Callable[[bytes], bool] | None) -> None:
        """Pass the data that arrives while a read waits to ``take``; see ``UpstreamResponse``. Not for gzip."""
        if self._gunzip is None:
            self._take = take
            self._response.pass_to(None if take is None else self._pass)

    def _pass(self, data: bytes) -> bool:
        self._has_begun = True
        self._response.read_by = min(self._loop.time() + self.limits.idle_s, self.limits.deadline)
        return self._take is not None and self._take(data)

    async def read(self) -> bytes | None:
        """Return the next bytes, never empty; None at the end."""
        if self._gunzip is not None:
            return await self._read_gunzipped(self._gunzip)
        while True:
            chunk = await self._next_chunk()
            if chunk is None or chunk:
                return chunk

    async def _read_gunzipped(self, gunzip: Gunzip) -> bytes | None:
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
        rest = self._response.rest() if self._gunzip is None else None
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
        """Release the connection if the body was read to its end, else close it. Idempotent; never raises an error.

        If ``drain`` is true, first read the rest of the body, at most ``MAX_DRAIN_BYTES`` in ``MAX_DRAIN_S`` seconds.
        """
        try:
            if drain:
                self.limits = self.limits.until(self._loop.time() + MAX_DRAIN_S)
                with suppress(*FAILURES):
                    await self.read_all(MAX_DRAIN_BYTES)
        finally:
            with suppress(Exception):  # the connection is closed either way, and the caller cannot handle the error
                await self._response.aclose()

    async def discard_connection(self) -> None:
        """Close the connection although the body has ended, because its framing and its content disagree on the end.

        Data that is still to come on the connection would be read as the response to the next request.
        """
        with suppress(Exception):
            await self._response.discard_connection()

    async def _next_chunk(self) -> bytes | None:
        now = self._loop.time()
        limits = self.limits
        limit = now + limits.idle_s if self._has_begun else limits.first_byte
        limit = min(limit, limits.deadline)
        if limit <= now and self._has_begun:  # a body that always has data ready prevents the timer from firing
            raise TimeoutError
        self._response.read_by = limit
        chunk = await anext(self._chunks, None)
        self._has_begun = True
        return chunk
