"""HTTP/1.1 as the victim and the attackers speak it: requests as bytes, answers counted as they arrive."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHAT: Final = "/v1/chat/completions"
JSON_HEADERS: Final[Mapping[str, str]] = {"content-type": "application/json"}
_HEAD_END: Final = b"\r\n\r\n"


class Answer(NamedTuple):
    """A response: its status, and the size of head and body in bytes."""

    status: int
    size: int


@dataclass(slots=True)
class AnswerParser:
    """Splits the bytes of a connection into responses: with a length, chunked, or without a body."""

    _received: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Answer]:
        """Return the responses that these bytes complete. Interim responses (1xx) are left out."""
        self._received += data
        found: list[Answer] = []
        while (answer := self._first()) is not None:
            del self._received[: answer.size]
            if answer.status >= 200:  # noqa: PLR2004 - below are interim responses
                found.append(answer)
        return found

    def _first(self) -> Answer | None:
        at = self._received.find(_HEAD_END)
        if at < 0:
            return None
        head = bytes(self._received[:at]).lower()
        status, begin = int(head[9:12]), at + len(_HEAD_END)
        if b"\r\ntransfer-encoding: chunked" in head:
            end = self._end_of_chunks(begin)
        else:
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            end = begin + int(length or 0)
        return Answer(status, end) if end is not None and end <= len(self._received) else None

    def _end_of_chunks(self, at: int) -> int | None:
        while True:
            line_end = self._received.find(b"\r\n", at)
            if line_end < 0:
                return None
            size = int(bytes(self._received[at:line_end]), 16)
            at = line_end + 2 + size + 2
            if size == 0:
                return at


def head(host: str, path: str, headers: Mapping[str, str], *, method: str = "POST") -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def request(host: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a request with a body of JSON."""
    return head(host, path, {**JSON_HEADERS, "content-length": str(len(body)), **headers}) + body


def chat_body(model: str, *, stream: bool = False, content: str = "hi") -> bytes:
    """Return the body of a chat completion's request."""
    asked = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}]}
    return json.dumps(asked, separators=(",", ":")).encode()


def bearer(token: str) -> dict[str, str]:
    """Return the header of a token."""
    return {"authorization": f"Bearer {token}"}


class Connection(asyncio.Protocol):
    """One connection. ``closed`` is set when it ends; ``on_answer`` is called with each response."""

    def __init__(self, on_answer: Callable[[Answer], None] | None = None) -> None:
        self.closed = asyncio.Event()
        self.error: Exception | None = None
        self.answers = 0
        self.last_status = 0
        self._on_answer = on_answer
        self._parser = AnswerParser()
        self._waiting: asyncio.Future[Answer] | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    @classmethod
    async def open(cls, host: str, port: int, on_answer: Callable[[Answer], None] | None = None) -> Connection:
        """Connect. Raises ``OSError``."""
        create = asyncio.get_running_loop().create_connection
        return (await create(lambda: cls(on_answer), host, port))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count the responses that are complete, and hand one to the caller that waits for it."""
        for answer in self._parser.feed(data):
            self.answers += 1
            self.last_status = answer.status
            if self._on_answer is not None:
                self._on_answer(answer)
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(answer)

    def pause_writing(self) -> None:
        """Make writers wait."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everything that waits."""
        self.error = exc
        self.closed.set()
        self._can_write.set()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionAbortedError("closed without a response"))

    async def send(self, data: bytes) -> None:
        """Write, and wait while too much is unsent. Raises ``ConnectionError`` on a closed connection."""
        if self.closed.is_set():
            raise ConnectionAbortedError("closed")
        self._transport.write(data)
        await self._can_write.wait()

    async def ask(self, data: bytes) -> Answer:
        """Send one request and return its response. Raises ``ConnectionError`` if the connection ends before it."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self.send(data)
            return await self._waiting
        finally:
            self._waiting.cancel()
            self._waiting = None

    async def closed_within(self, seconds: float) -> bool:
        """Return whether the connection ends within this time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closed.wait(), seconds)
        return self.closed.is_set()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
