"""The client of one request: its body, the answer's way to it, and whether it is still there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from ibex.adapters.http.asgi import BODY, DISCONNECT, START
from ibex.domain.errors import ClientClosedRequestError, PayloadTooLargeError

if TYPE_CHECKING:
    from types import TracebackType

    from ibex.adapters.http.asgi import Answer, Headers, Message, Receive, Scope, Send

CUT: Final = "ibex.cut"
KEEP_ALIVE: Final = b": keep-alive\n\n"
_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. Sizes are in bytes, times in seconds.

    After ``keep_alive_s`` of silence a stream gets a comment; a client that reads nothing, or whose body stands still,
    for ``client_stall_timeout_s`` is cut off.
    """

    max_request_body_bytes: int = 10 * 1024 * 1024
    keep_alive_s: float = 15.0
    client_stall_timeout_s: float = 60.0


class Client:
    """Use it as a context manager around all of a request's work.

    From the end of its body on it is watched: if it goes, the block is cancelled and ``gone`` is set; leaving the block
    then raises nothing, nor does ``ClientClosedRequestError``. A cancellation from elsewhere goes through.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._cut = scope.get("extensions", {}).get(CUT)
        self._receive = receive
        self._send = send
        self._limits = limits
        self._block: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._cancelled_block = False
        self._companions: list[asyncio.Task[None]] = []
        self._sending = False
        self._last_sent_s = 0.0
        self._finished = False
        self.gone = False
        self.answered = False
        self.streaming = False

    async def __aenter__(self) -> Self:
        self._block = asyncio.current_task()
        self._cancellations = self._block.cancelling() if self._block else 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._finished = True
        for companion in self._companions:
            companion.cancel()
        if self._companions:
            await asyncio.wait(self._companions)
        if self._cancelled_block and self._block is not None:
            only_ours = self._block.uncancel() <= self._cancellations
            return only_ours and isinstance(error, asyncio.CancelledError | ClientClosedRequestError)
        return isinstance(error, ClientClosedRequestError)

    async def read_body(self, declared_bytes: int | None) -> bytes:
        """Return the whole body.

        Raises ``PayloadTooLargeError``, before reading anything if the declared length says so, and
        ``ClientClosedRequestError`` if the client goes or stands still before the end.
        """
        most = self._limits.max_request_body_bytes
        if declared_bytes is not None and declared_bytes > most:
            raise _too_large(most)
        chunks = []
        size = 0
        more = True
        while more:
            message = await self._next_message()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            chunks.append(chunk)
            more = message.get("more_body", False)
        self._companions.append(asyncio.create_task(self._watch()))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer. Raises ``ClientClosedRequestError`` if the client does not take it."""
        self.answered = True
        self._finished = True  # before the last byte: an answered request is over to the server, as if its client left
        await self._deliver(*answer.messages())

    async def begin_stream(self, headers: Headers) -> None:
        """Send the head of a stream; from now on its silences are filled. Raises as ``answer`` does."""
        self.answered = self.streaming = True
        await self._deliver({"type": START, "status": 200, "headers": _STREAM_HEADERS + headers})
        self._companions.append(asyncio.create_task(self._fill_silences()))

    async def send_chunk(self, chunk: bytes) -> None:
        """Send a part of a stream at once. Raises as ``answer`` does."""
        await self._deliver({"type": BODY, "body": chunk, "more_body": True})

    async def end_stream(self, last: bytes = b"") -> None:
        """Send the end of a stream. Raises as ``answer`` does."""
        self._finished = True
        await self._deliver({"type": BODY, "body": last, "more_body": False})

    async def _next_message(self) -> Message:
        try:
            async with asyncio.timeout(self._limits.client_stall_timeout_s):
                message = await self._receive()
        except TimeoutError:
            self._cut_off()
            raise ClientClosedRequestError from None
        if message["type"] == DISCONNECT:
            self.gone = True
            raise ClientClosedRequestError
        return message

    async def _deliver(self, *messages: Message) -> None:
        self._sending = True
        try:
            async with asyncio.timeout(self._limits.client_stall_timeout_s):
                for message in messages:
                    await self._send(message)
        except TimeoutError:
            self._cut_off()
            raise ClientClosedRequestError from None
        finally:
            self._sending = False
            self._last_sent_s = asyncio.get_running_loop().time()

    async def _watch(self) -> None:
        if (await self._receive())["type"] == DISCONNECT:  # after the end of the body nothing else may come
            self._leave()

    async def _fill_silences(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._finished:
            remaining_s = self._last_sent_s + self._limits.keep_alive_s - loop.time()
            if remaining_s > 0:
                await asyncio.sleep(remaining_s)
            elif self._sending:  # what waits for the client's reading breaks the silence itself
                await asyncio.sleep(self._limits.keep_alive_s)
            else:
                await self._keep_alive()

    async def _keep_alive(self) -> None:
        try:
            await self.send_chunk(KEEP_ALIVE)
        except ClientClosedRequestError:
            self._leave()

    def _leave(self) -> None:
        """Cancel the block, since nobody is there who waits for what it does."""
        if self._finished or self._block is None:
            return
        self._finished = self.gone = self._cancelled_block = True
        self._block.cancel()

    def _cut_off(self) -> None:
        self.gone = True
        if self._cut is not None:
            self._cut()


def _too_large(most: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body must have at most {most} bytes.")
