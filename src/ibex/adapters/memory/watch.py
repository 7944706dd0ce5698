"""The watch within one process: the embedded default runs the worker and auth together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.freshness.change_log import WatchMessage, WatchServer


class _Stream:
    """Both ends of a stream. A queue takes the place of the network."""

    def __init__(self, server: WatchServer) -> None:
        self._server = server
        self._messages: asyncio.Queue[WatchMessage] = asyncio.Queue()

    def ping(self, number: int) -> None:
        self._server.ping(self, number)

    def send(self, message: WatchMessage) -> None:
        self._messages.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[WatchMessage]:
        while True:
            yield await self._messages.get()


class InProcessWatch:
    """A ``WatchConnector`` to a ``WatchServer`` in this process. Its streams never fail."""

    def __init__(self, server: WatchServer) -> None:
        self._server = server

    @asynccontextmanager
    async def open(self, position: str | None) -> AsyncIterator[_Stream]:
        """Open a stream; see ``WatchConnector``."""
        stream = _Stream(self._server)
        self._server.open(stream, position)
        try:
            yield stream
        finally:
            self._server.close(stream)
