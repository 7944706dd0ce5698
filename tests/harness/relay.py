"""A TCP relay between a client and a server, which can stall, cut and heal the link."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

WAIT_S = 10.0
CHUNK_BYTES = 1 << 16


class Relay:
    """Listens on a free loopback port and forwards data in both directions. Usable from any thread."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        """Take host and port, or the path of a Unix socket."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._answers = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._refuses = False
        self.delay_s = 0.0
        """How long each piece is held back, in either direction."""
        self.replaces = (b"", b"")
        """Bytes that the server sends, and their replacement, which has the same length."""
        self.port = 0

    @classmethod
    @contextmanager
    def running(cls, target: tuple[str, int] | str) -> Iterator[Relay]:
        """Run a relay in a thread of its own."""
        relay = cls(target)
        thread = threading.Thread(target=relay._loop.run_forever, daemon=True)
        thread.start()
        server = relay._run(relay._start())
        try:
            yield relay
        finally:
            relay._run(relay._stop(server))
            relay._loop.call_soon_threadsafe(relay._loop.stop)
            thread.join(WAIT_S)
            relay._loop.close()

    def stall(self) -> None:
        """Forward nothing in either direction. Connections stay open, and new ones are accepted but get no response."""
        self._run(self._set(flows=False, refuses=False))

    def hold_answers(self) -> None:
        """Forward the client's data, and hold back the server's."""
        self._loop.call_soon_threadsafe(self._answers.clear)

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        self._run(self._set(flows=True, refuses=True))

    def redirect(self, target: tuple[str, int] | str) -> None:
        """Forward new connections to another server. Those that are open stay with the former one."""
        self._target = target

    def heal(self) -> None:
        """Forward again, including the data that was held back."""
        self._run(self._set(flows=True, refuses=False))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    async def _start(self) -> asyncio.Server:
        self._flows.set()
        self._answers.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        await self._set(flows=True, refuses=True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)  # each task ends with its connections

    async def _set(self, *, flows: bool, refuses: bool) -> None:
        self._refuses = refuses
        if refuses:
            for writer in list(self._open):
                writer.transport.abort()
        self._answers.set()
        if flows:
            self._flows.set()
        else:
            self._flows.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            await self._flows.wait()
            there, back = await self._connect()
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(back)
        await asyncio.gather(self._pass_on(reader, back, self._flows), self._pass_on(there, writer, self._answers))
        self._open -= {writer, back}

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, allowed: asyncio.Event) -> None:
        with suppress(OSError):
            sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._flows.wait()
                await allowed.wait()
                await asyncio.sleep(self.delay_s)
                sink.write(data.replace(*self.replaces) if self.replaces[0] else data)
                await sink.drain()
        sink.transport.abort() if self._refuses else sink.close()
