"""One event of a stream: from the bytes of the provider's connection to those of the client's (ADR 0068)."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest
import uvicorn
from uvicorn.server import ServerState

from harness.http_scene import CHAT, HEADERS, STREAM_REQUEST, HttpScene
from harness.openai_wire import chunked
from harness.server_connection import RecordingTransport
from harness.unwired import Unwired
from ibex.adapters.http_client.response_body import ResponseBody, TimeLimits
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.adapters.openai.errors import AttemptInfo
from ibex.adapters.openai.provider import OpenAIStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark(group="3 answer")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = chunked(
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",'
    b'"choices":[{"index":0,"delta":{"content":" mountain"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
LINES = [b"%b: %b" % (name.encode(), str(value).encode()) for name, value in {"host": "h", **HEADERS}.items()]
REQUEST = b"\r\n".join(
    [b"POST %b HTTP/1.1" % CHAT.encode(), *LINES, b"Content-Length: %d" % len(STREAM_REQUEST), b"", STREAM_REQUEST]
)
IDLE_S = 60.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return an event loop of the kind that a worker uses."""
    made = uvicorn.Config("", loop="auto").get_loop_factory()
    assert made is not None
    loop = made()
    yield loop
    loop.close()


class _Client(RecordingTransport):
    """The client of a stream. It keeps the last writing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the data."""
        self.written = bytes(data)
        self.something_written.set()


class _Streaming:
    """A stream that has begun: a connection to a provider, and a direct request that gets its events."""

    def __init__(self) -> None:
        self.upstream = Unwired()
        self.client = _Client()

    async def begin(self) -> None:
        """Send the request, the head of the response, and the first event."""
        response = self.upstream.connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
        self.upstream.feed(HEAD)
        await response.head()
        now = asyncio.get_running_loop().time()
        body = ResponseBody(response, TimeLimits(math.inf, now + IDLE_S, IDLE_S))
        scene = HttpScene(OpenAIStream(body, AttemptInfo(1)))
        config = uvicorn.Config(
            scene.app(), interface="asgi3", log_config=None, access_log=False, lifespan="off", proxy_headers=False
        )
        config.load()
        self.protocol = LimitedHttpProtocol(config=config, server_state=ServerState(), app_state={})
        self.protocol.connection_made(self.client)
        self.protocol.data_received(REQUEST)
        await self.client.until_written(b"text/event-stream")
        await self.events(10)

    async def events(self, count: int) -> None:
        """Pass on events, each in a turn of the loop."""
        for _ in range(count):
            self.client.written = b""
            self.upstream.feed(EVENT)
            await asyncio.sleep(0)
            assert self.client.written == EVENT

    async def end(self) -> None:
        """Let the client leave, so that the stream is closed."""
        self.protocol.connection_lost(None)
        while not self.upstream.gone:
            self.upstream.connection.connection_lost(None)
            await asyncio.sleep(0)


def test_one_event_through_a_stream(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """Read, split, fold and write an event that arrives alone; 100 of them, because a run of the loop costs too."""
    streaming = _Streaming()
    loop.run_until_complete(streaming.begin())

    benchmark(lambda: loop.run_until_complete(streaming.events(100)))

    loop.run_until_complete(streaming.end())
