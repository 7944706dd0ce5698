"""A stream from a provider's connection to a client's, without sockets: a test feeds one and sees the other."""

from __future__ import annotations

import asyncio
import math

import uvicorn
from uvicorn.server import ServerState

from harness.http_scene import CHAT, HEADERS, STREAM_REQUEST, HttpScene
from harness.openai_wire import chunked
from harness.server_connection import RecordingTransport
from harness.unwired import Unwired
from ibex.adapters.http_client.response_body import ResponseBody, TimeLimits
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.adapters.openai.errors import AttemptInfo
from ibex.adapters.openai.stream import OpenAIStream

LONG_S = 60.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LINES = [b"%b: %b" % (name.encode(), str(value).encode()) for name, value in {"host": "h", **HEADERS}.items()]
_REQUEST = b"\r\n".join(
    [b"POST %b HTTP/1.1" % CHAT.encode(), *_LINES, b"Content-Length: %d" % len(STREAM_REQUEST), b"", STREAM_REQUEST]
)


class StreamScene:
    """A stream that has begun, of a direct request. ``idle_s`` is the longest silence of the provider."""

    def __init__(self, client: RecordingTransport | None = None, *, idle_s: float = LONG_S) -> None:
        self.upstream = Unwired()
        self.client = client or RecordingTransport()
        self.idle_s = idle_s
        self.state = ServerState()

    async def begin(self) -> None:
        """Send the request, and the head of the response. Returns when the stream waits for its first event."""
        response = self.upstream.connection.send(b"POST / HTTP/1.1\r\n\r\n", b"")
        self.upstream.feed(_HEAD)
        await response.head()
        now = asyncio.get_running_loop().time()
        body = ResponseBody(response, TimeLimits(math.inf, now + LONG_S, self.idle_s))
        self.http = HttpScene(OpenAIStream(body, AttemptInfo(1)))
        config = uvicorn.Config(
            self.http.app(), interface="asgi3", log_config=None, access_log=False, lifespan="off", proxy_headers=False
        )
        config.load()
        self.protocol = LimitedHttpProtocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.client)
        self.protocol.data_received(_REQUEST)
        await self.client.until_written(b"text/event-stream")
        await asyncio.sleep(0)

    def arrive(self, *data: bytes) -> None:
        """Let the connection to the provider read these pieces, each a chunk of the response, in one read."""
        self.upstream.feed(b"".join(map(chunked, data)))

    async def end(self) -> None:
        """Wait until the request has ended, with all that it started."""
        while self.state.tasks:
            await asyncio.gather(*self.state.tasks)
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """Let the client leave. Returns when the request has ended."""
        self.protocol.connection_lost(None)
        await self.end()
