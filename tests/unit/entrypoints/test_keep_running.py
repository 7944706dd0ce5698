"""A server that ends is restarted."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ibex.entrypoints.keep_running import KeepRunning, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OFTEN_S = 0.001


class FakeServer:
    """A server that ends on demand. Some of its starts fail, and one can block."""

    def __init__(self, *, failing_starts: int = 0) -> None:
        self.running = True
        self.starts = 0
        self.runs_again = threading.Event()
        self.started = threading.Event()
        self.may_start = threading.Event()
        self.may_start.set()
        self._failing = failing_starts

    def start(self) -> None:
        """Start, fail or block."""
        self.starts += 1
        self.started.set()
        assert self.may_start.wait(10)
        if self.starts <= self._failing:
            raise OSError("no room")
        self.running = True
        self.runs_again.set()

    def supervised(self) -> Server:
        """Return the server for ``KeepRunning``."""
        return Server("a server", lambda: self.running, self.start)


@asynccontextmanager
async def kept_running(*servers: FakeServer) -> AsyncIterator[asyncio.Task[None]]:
    """Supervise servers during the block."""
    keep = KeepRunning([server.supervised() for server in servers], check_interval_s=OFTEN_S)
    task = asyncio.create_task(keep.run())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def _until_it_runs(server: FakeServer) -> None:
    assert await asyncio.to_thread(server.runs_again.wait, 10)


async def test_a_server_that_ended_is_restarted() -> None:
    """A server that is running is not restarted."""
    ending, other = FakeServer(), FakeServer()
    async with kept_running(ending, other):
        ending.running = False
        await _until_it_runs(ending)
    assert (ending.starts, other.starts) == (1, 0)


async def test_a_failed_start_is_retried() -> None:
    """It does not prevent the restart of other servers."""
    failing, other = FakeServer(failing_starts=2), FakeServer()
    async with kept_running(failing, other):
        failing.running = other.running = False
        await _until_it_runs(failing)
        await _until_it_runs(other)
    assert failing.starts == 3


async def test_a_cancellation_waits_for_a_running_start() -> None:
    """The servers can then be stopped."""
    server = FakeServer()
    async with kept_running(server) as task:
        server.may_start.clear()
        server.running = False
        assert await asyncio.to_thread(server.started.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        server.may_start.set()
        await asyncio.wait([task])
        assert server.running
