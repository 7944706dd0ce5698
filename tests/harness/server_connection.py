"""One connection of the HTTP server without a socket: the test feeds the input, and the output is recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import ServerState

from ibex.adapters.http_server.errors import status_of
from ibex.adapters.http_server.outer_middleware import REFUSED
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.domain.errors import IbexError

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Receive, Scope, Send
    from ibex.domain.errors import ErrorCode


class RecordingTransport(asyncio.Transport):
    """A transport that records its calls and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writings: list[bytes] = []
        self.something_written = asyncio.Event()
        self.aborted = False
        self.half_closed = False
        self.is_read = True
        self.unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record written data."""
        self.written += bytes(data)
        self.writings.append(bytes(data))
        self.something_written.set()

    async def until_written(self, wanted: bytes) -> None:
        """Return once these bytes were written."""
        while wanted not in self.written:
            self.something_written.clear()
            await self.something_written.wait()

    def writelines(self, list_of_data: Any) -> None:
        """Record data that was written in one call."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Record the end of the output."""
        self.half_closed = True

    def get_write_buffer_size(self) -> int:
        """Return the size that the test sets."""
        return self.unsent

    def is_closing(self) -> bool:
        """Return whether the transport was closed or aborted."""
        return self.aborted

    def abort(self) -> None:
        """Record the abort."""
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return no information."""
        del name
        return default

    def pause_reading(self) -> None:
        """Record the call. Data that a test feeds arrives regardless."""
        self.is_read = False

    def resume_reading(self) -> None:
        """Record the call."""
        self.is_read = True

    def close(self) -> None:
        """Record the close."""
        self.aborted = True


class Connection:
    """One connection to an application that echoes the headers it sees, or waits before it answers."""

    def __init__(
        self,
        *,
        waits: bool = False,
        body: bytes | None = b"x",
        parts: int = 1,
        reads: bool = True,
        server: type[LimitedHttpProtocol] = LimitedHttpProtocol,
    ) -> None:
        """Take the body of each response, None for one without a length, and the number of its parts."""
        self._reads = reads
        self._body = body
        self._parts = parts
        self.seen: list[Scope] = []
        self.bodies: list[bytes] = []
        self.codes: list[ErrorCode | None] = []
        self.may_answer = asyncio.Event()
        self.began = asyncio.Event()
        self.answered = asyncio.Event()
        if not waits:
            self.may_answer.set()
        config = uvicorn.Config(self._app, interface="asgi3", log_config=None, access_log=False, lifespan="off")
        config.load()
        self.transport = RecordingTransport()
        self.state = ServerState()
        self.protocol = server(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["extensions"].get(REFUSED)
        if refused is None:
            self.seen.append(scope)
            try:
                while self._reads:
                    message = await receive()
                    self.bodies.append(message.get("body", b""))
                    if not message.get("more_body"):
                        break
            except IbexError as error:
                refused = error
        self.codes.append(refused and refused.code)
        status = status_of(refused)
        headers = [] if self._body is None else [(b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self.began.set()
        await self.may_answer.wait()
        body, size = self._body or b"", len(self._body or b"") // self._parts
        for part in range(1, self._parts):
            await send({"type": "http.response.body", "body": body[(part - 1) * size : part * size], "more_body": True})
        await send({"type": "http.response.body", "body": body[(self._parts - 1) * size :]})
        self.answered.set()

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the connection, or begun to by half-closing it."""
        return self.transport.aborted or self.transport.half_closed

    async def settle(self) -> None:
        """Run the event loop until every task waits."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def finish(self) -> bytes:
        """Let the application answer, and return all that was written."""
        self.may_answer.set()
        if self.transport.aborted:
            self.protocol.connection_lost(None)
        await asyncio.gather(*self.state.tasks)
        if not self.transport.aborted:
            self.protocol.connection_lost(None)
        return self.transport.written
