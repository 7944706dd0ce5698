"""The connection to the client of one request: reads the body, sends the response, and detects a disconnect.

``ClientConnection`` holds what does not depend on the protocol. ``AsgiClient`` speaks ASGI; ``DirectClient`` in
``direct_request`` writes to the connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from ibex.adapters.http_server.asgi import BODY, DISCONNECT, START
from ibex.domain.deadline import Deadline
from ibex.domain.errors import ClientClosedRequestError, PayloadTooLargeError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ibex.adapters.http_server.asgi import Headers, Message, Receive, Response, Scope, Send
    from ibex.domain.proxying.capacity import Reservation

WATCH: Final = "ibex.watch"
"""A scope extension: a function that registers a callback for a disconnect before the response is complete."""
WHOLE_BODY: Final = "ibex.whole_body"
"""A scope extension: a function that returns the body if it has arrived completely, else None."""
KEEP_ALIVE: Final = b": keep-alive\n"
"""A comment without a blank line: at a blank line, openai-python reports an empty event if an earlier one had an id."""
_BLANK_LINES: Final = (b"\n\n", b"\n\r", b"\r\r", b"\n\r\n", b"\r\r\n")
_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a request. Sizes are in bytes, times in seconds.

    A stream gets a comment after ``keep_alive_s`` of silence. A body must be complete within ``body_s``, plus one
    second for each ``body_bytes_per_s`` of its declared length, or of its bytes so far if no length is declared. No
    silence in it may exceed ``body_silence_s``.
    """

    max_request_body_bytes: int = 10 * 1024 * 1024
    body_silence_s: float = 10.0
    body_s: float = 60.0
    body_bytes_per_s: int = 128 * 1024
    keep_alive_s: float = 15.0


_SHORT_DELAY_S: Final = 0.005
_PIECE_BYTES: Final = 64 * 1024
"""The size to which small chunks of a body are joined, because each bytes object has an overhead."""


class ClientConnection(ABC):
    """The client of one request: a context manager around all of the request's work.

    Once the body is read, a disconnect sets ``gone`` and cancels the block. The context manager then suppresses the
    cancellation, and also ``ClientClosedRequestError``. A cancellation for another reason propagates.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._has_cancelled_task = False
        self._background_tasks: list[asyncio.Task[None]] = []
        self._silence_timer: asyncio.TimerHandle | None = None
        self._sending = False
        self._last_sent_s = 0.0
        self._last_chunk = b"\n\n"
        self._finished = False
        self.gone = False
        self.response_started = False
        self.streaming = False

    @abstractmethod
    def _whole_body(self) -> bytes | None:
        """Return the body if it has arrived completely, else None."""

    @abstractmethod
    async def _receive(self) -> Message:
        """Return the next part of a body that has not arrived completely, as an ASGI message."""

    @abstractmethod
    def _watch(self, on_left: Callable[[], None]) -> None:
        """Call ``on_left`` when the client disconnects before the response is complete."""

    @abstractmethod
    async def _send_response(self, response: Response) -> None:
        """Send a complete response. If the client has gone, this and the methods below send nothing."""

    @abstractmethod
    async def _send_head(self, headers: Headers) -> None:
        """Send the head of a response with status 200 and a body of unknown length."""

    @abstractmethod
    async def _send_part(self, part: bytes) -> None:
        """Send a part of the body. First wait until the client has read most of the earlier parts."""

    @abstractmethod
    def _send_part_now(self, part: bytes) -> bool:
        """Send a part of the body without waiting; return False, and send nothing, if that is impossible."""

    @abstractmethod
    async def _send_end(self, last: bytes) -> None:
        """Send the last part of the body, which may be empty."""

    @abstractmethod
    def _send_comment(self) -> None:
        """Send ``KEEP_ALIVE`` without waiting."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        self._cancellations = self._task.cancelling() if self._task else 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._finished = True
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        # break reference cycles: the tracebacks of the tasks' errors refer to this object
        background_tasks, self._background_tasks = self._background_tasks, []
        for task in background_tasks:
            task.cancel()
        if background_tasks:
            await asyncio.wait(background_tasks)
        if self._has_cancelled_task and self._task is not None:
            only_ours = self._task.uncancel() <= self._cancellations
            return only_ours and isinstance(error, asyncio.CancelledError | ClientClosedRequestError)
        return isinstance(error, ClientClosedRequestError)

    async def read_body(self, declared_bytes: int | None, reservation: Reservation) -> bytes:
        """Return the whole body, and reserve its bytes: a declared length before reading, else each chunk.

        Raises ``PayloadTooLargeError`` (before reading if the declared length exceeds the limit), ``OverloadedError``
        if the bytes cannot be reserved, ``RequestTimeoutError`` if the body does not arrive in time, and
        ``ClientClosedRequestError`` if the client disconnects before the end.
        """
        most = self._limits.max_request_body_bytes
        if declared_bytes is not None and declared_bytes > most:
            raise _too_large(most)
        whole = self._whole_body()
        if whole is not None:  # most bodies have arrived by now
            if len(whole) > most:
                raise _too_large(most)
            reservation.reserve_body(len(whole))
            self._watch(self._cancel_task)
            return whole
        if declared_bytes is not None:
            reservation.reserve_body(declared_bytes)
        body = await self._receive_body(declared_bytes, reservation)
        self._watch(self._cancel_task)
        return body

    async def _receive_body(self, declared_bytes: int | None, reservation: Reservation) -> bytes:
        most, bytes_per_s = self._limits.max_request_body_bytes, self._limits.body_bytes_per_s
        pieces: list[bytes | bytearray] = []
        size = 0
        more = True
        latest = self._loop.time() + self._limits.body_s
        while more:
            due = latest + (size if declared_bytes is None else declared_bytes) / bytes_per_s
            message = await self._next_message(due)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            if declared_bytes is None:
                reservation.reserve_body(len(chunk))
            _append(pieces, chunk)
            more = message.get("more_body", False)
            now = self._loop.time()
            if more and now > due + self._limits.body_silence_s:
                raise RequestTimeoutError  # a client that always has a byte ready prevents the timer from firing
            delay_s = reservation.body_delay_s(len(chunk), now)
            if more and delay_s > _SHORT_DELAY_S:
                await asyncio.sleep(delay_s)  # meanwhile, the server does not read from this connection
        return b"".join(pieces)

    async def send_response(self, response: Response) -> None:
        """Send a complete response. If the client has gone, this and the methods below send nothing."""
        self.response_started = True
        self._finished = True  # before the last byte, because the server reports a finished response like a disconnect
        await self._send_response(response)

    async def begin_stream(self, headers: Headers) -> None:
        """Send the head of a stream. From now on a silence is filled with comments."""
        self.response_started = self.streaming = True
        await self._send_head(_STREAM_HEADERS + headers)
        self._last_sent_s = self._loop.time()
        self._await_silence(self._limits.keep_alive_s)

    async def send_chunk(self, chunk: bytes) -> None:
        """Send a part of a stream. First waits until the client has read most of the earlier parts."""
        self._last_chunk = chunk
        self._sending = True
        try:
            await self._send_part(chunk)
        finally:
            self._sending = False
            self._last_sent_s = self._loop.time()

    def send_chunk_now(self, chunk: bytes) -> bool:
        """Send a part of a stream without waiting; return False, and send nothing, if that is impossible."""
        if self._finished or not self._send_part_now(chunk):
            return False
        self._last_chunk = chunk
        self._last_sent_s = self._loop.time()
        return True

    async def end_stream(self, last: bytes = b"") -> None:
        """End a stream, optionally with a last event. Separate it from an incomplete event by a blank line."""
        self._finished = True
        if last and not self._last_chunk.endswith(_BLANK_LINES):
            last = b"\n\n" + last
        await self._send_end(last)

    async def _next_message(self, due: float) -> Message:
        """Return the next part of the body. Raises ``RequestTimeoutError`` at ``due`` or after ``body_silence_s``."""
        try:
            async with Deadline(min(due, self._loop.time() + self._limits.body_silence_s)):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeoutError from None
        if message["type"] == DISCONNECT:
            self.gone = True
            raise ClientClosedRequestError
        return message

    def _await_silence(self, delay_s: float) -> None:
        self._silence_timer = self._loop.call_later(delay_s, self._fill_silence)

    def _fill_silence(self) -> None:
        """Send a comment if the stream has been silent. One timer for each stream, which no event moves."""
        if self._finished:
            return
        keep_alive_s = self._limits.keep_alive_s
        remaining_s = self._last_sent_s + keep_alive_s - self._loop.time()
        if remaining_s > 0:
            self._await_silence(remaining_s)
            return
        # A pending write ends the silence itself, and a comment must not be sent within an event.
        if not self._sending and self._last_chunk.endswith(_BLANK_LINES):
            self._last_sent_s = self._loop.time()
            self._send_comment()
        self._await_silence(keep_alive_s)

    def _cancel_task(self) -> None:
        """Cancel the block, because the client has disconnected."""
        if self._finished or self._task is None:
            return
        self._finished = self.gone = self._has_cancelled_task = True
        self._task.cancel()


class AsgiClient(ClientConnection):
    """The client of a request that arrives by ASGI, on any server."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        super().__init__(limits)
        extensions = scope.get("extensions", {})
        self._watch_connection: Callable[[Callable[[], None]], None] | None = extensions.get(WATCH)
        self._whole_body_of_server: Callable[[], bytes | None] = extensions.get(WHOLE_BODY, _unknown)
        self._receive_message = receive
        self._send = send

    def _whole_body(self) -> bytes | None:
        return self._whole_body_of_server()

    async def _receive(self) -> Message:
        return await self._receive_message()

    def _watch(self, on_left: Callable[[], None]) -> None:
        """Watch by the extension of the server, else with a task, which costs as much as reading the body."""
        if self._watch_connection is not None:
            self._watch_connection(on_left)
            return

        async def watch() -> None:
            if (await self._receive())["type"] == DISCONNECT:  # the only message after the end of the body
                on_left()

        self._background_tasks.append(asyncio.create_task(watch()))

    async def _send_response(self, response: Response) -> None:
        for message in response.messages():
            await self._send(message)

    async def _send_head(self, headers: Headers) -> None:
        await self._send({"type": START, "status": 200, "headers": headers})

    async def _send_part(self, part: bytes) -> None:
        await self._send({"type": BODY, "body": part, "more_body": True})

    def _send_part_now(self, part: bytes) -> bool:
        """Return False: sending by ASGI may wait."""
        del part
        return False

    async def _send_end(self, last: bytes) -> None:
        await self._send({"type": BODY, "body": last, "more_body": False})

    def _send_comment(self) -> None:
        self._background_tasks.append(asyncio.create_task(self.send_comment()))

    async def send_comment(self) -> None:
        """Send a comment. Until it is sent, no other is due."""
        self._sending = True
        try:
            await self._send_part(KEEP_ALIVE)
        finally:
            self._sending = False


def _append(pieces: list[bytes | bytearray], chunk: bytes) -> None:
    last = pieces[-1] if pieces else None
    if isinstance(last, bytearray) and len(last) < _PIECE_BYTES:
        last += chunk
    else:
        pieces.append(bytearray(chunk) if pieces and len(chunk) < _PIECE_BYTES else chunk)


def _unknown() -> None:
    """Return None, because the server lacks the extension ``WHOLE_BODY``."""


def _too_large(most: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request body must have at most {most} bytes.")
