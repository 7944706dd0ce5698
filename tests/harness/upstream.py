"""An httpx transport without sockets: scripted responses, and a record of requests, reads, closes and cancellations."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import httpx

from harness.chat_scene import pause
from harness.openai_wire import REQUEST_ID, completion_body, error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence


class Hush(Enum):
    """A response that never arrives."""

    HUSH = "hush"


HUSH = Hush.HUSH
Chunk: TypeAlias = bytes | Exception | Hush


@dataclass(slots=True)
class FakeBody(httpx.AsyncByteStream):
    """A body that arrives chunk by chunk; an exception among the chunks is raised."""

    chunks: Sequence[Chunk]
    given: int = 0
    ended: bool = False
    closed: bool = False
    on_read: Callable[[], None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks."""
        for chunk in self.chunks:
            if self.on_read is not None:
                self.on_read()
            await pause()
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Hush):
                await asyncio.get_running_loop().create_future()
            else:
                self.given += 1
                yield chunk
        self.ended = True

    async def aclose(self) -> None:
        """Close the body immediately; it may be closed repeatedly, as httpx promises."""
        self.closed = True


@dataclass(slots=True)
class FakeNetworkStream:
    """The connection that carries a response."""

    closed: int = 0

    async def aclose(self) -> None:
        """Close the connection."""
        self.closed += 1


@dataclass(slots=True)
class FakeResponse:
    """A scripted response: status, headers, chunks of its body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Sequence[Chunk] = ()


def buffered(text: str = "Hi", **headers: str) -> FakeResponse:
    """Return a valid buffered response, in two chunks."""
    body = completion_body(text)
    return FakeResponse(200, _named({"content_type": "application/json"} | headers), (body[:20], body[20:]))


def streamed(*chunks: Chunk, **headers: str) -> FakeResponse:
    """Return a valid streamed response."""
    return FakeResponse(200, _named({"content_type": "text/event-stream"} | headers), chunks)


def refused(
    status: int, message: str = "a message of the provider's", *, code: str | None = None, **headers: str
) -> FakeResponse:
    """Return an error in OpenAI's format."""
    body = error_body(message, code=code)
    return FakeResponse(status, _named({"content_type": "application/json"} | headers), (body,))


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {"x-request-id": REQUEST_ID} | {name.replace("_", "-"): value for name, value in headers.items()}


class FakeTransport(httpx.AsyncBaseTransport):
    """Returns the responses in order. An exception among them is raised; after ``HUSH`` nothing arrives."""

    def __init__(self, *answers: FakeResponse | Exception | Hush) -> None:
        self.answers = deque(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[FakeBody] = []
        self.network_streams: list[FakeNetworkStream] = []
        self.cancelled = 0
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the next response."""
        self.requests.append(request)
        answer = self.answers.popleft()
        try:
            await pause()
            if isinstance(answer, Hush):
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, FakeResponse)
        self.bodies.append(FakeBody(answer.chunks))
        self.network_streams.append(FakeNetworkStream())
        return httpx.Response(
            answer.status,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()],
            stream=self.bodies[-1],
            extensions={"network_stream": self.network_streams[-1]},
        )

    async def aclose(self) -> None:
        """Close the transport."""
        self.closed = True

    @property
    def all_closed(self) -> bool:
        """Whether every response body was closed."""
        return all(body.closed for body in self.bodies)
