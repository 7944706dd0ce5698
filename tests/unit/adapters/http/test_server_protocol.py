"""The server's protocol hands out the scissors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import ServerState

from ibex.adapters.http.client import CUT
from ibex.adapters.http.server_protocol import CuttableHttpProtocol

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Receive, Scope, Send


class RecordingTransport(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Remember what was written."""
        self.written += bytes(data)

    def is_closing(self) -> bool:
        """Tell whether it was cut."""
        return self.aborted

    def abort(self) -> None:
        """Be cut."""
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know nothing."""
        del name
        return default

    def pause_reading(self) -> None:
        """Go on regardless."""

    def resume_reading(self) -> None:
        """Go on regardless."""

    def close(self) -> None:
        """Be closed."""
        self.aborted = True


async def test_each_request_can_cut_its_connection() -> None:
    """The extension in the scope drops the connection with what is still to be sent."""
    scopes: list[Scope] = []
    answered = asyncio.Event()

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        answered.set()

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    config.load()
    transport = RecordingTransport()
    protocol = CuttableHttpProtocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(transport)

    protocol.data_received(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
    await answered.wait()
    assert not transport.aborted
    scopes[0]["extensions"][CUT]()

    assert transport.aborted
    protocol.connection_lost(None)
