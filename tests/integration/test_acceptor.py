"""Processes that listen on the same socket share its connections."""

from __future__ import annotations

import asyncio
import mmap
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from ibex.adapters.telemetry.shared_memory import SEGMENT_BYTES, SharedMemorySegment
from ibex.entrypoints.acceptor import Acceptor, ClosableProtocol, ConnectionBalancer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.both_loops]


class Greeting(ClosableProtocol):
    """A protocol that greets its client and remembers whether it was told to shut down."""

    was_told_to_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting."""
        cast("asyncio.WriteTransport", transport).write(b"hello")

    def shutdown(self) -> None:
        """Remember the call."""
        self.was_told_to_end = True


class Process:
    """A stand-in for one of the processes that accept from the same socket."""

    def __init__(self, listener: socket.socket, regions: list[SharedMemorySegment], number: int) -> None:
        self.connections: list[Greeting] = []
        self.ends_with_the_first = False
        regions[number].attach()
        share = ConnectionBalancer(regions, number)
        self._listener = listener.dup()
        self._acceptor = Acceptor(self._listener, self._made, share, self.connections.__len__)

    async def end(self) -> None:
        """Stop accepting connections."""
        self._acceptor.close()
        await self._acceptor.wait_closed()
        self._listener.close()

    def _made(self) -> Greeting:
        if self.ends_with_the_first:
            self._acceptor.close()
        self.connections.append(Greeting())
        return self.connections[-1]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def regions_for(number: int) -> list[SharedMemorySegment]:
    """Return the shared memory segments of this many processes."""
    memory = mmap.mmap(-1, number * SEGMENT_BYTES)
    return [SharedMemorySegment(memory, own) for own in range(number)]


@contextmanager
def clients() -> Iterator[ExitStack]:
    """Hold clients' connections, and close them afterwards."""
    with ExitStack() as stack:
        yield stack


async def greeted(stack: ExitStack, listener: socket.socket) -> bytes:
    """Connect, keep the connection, and return the greeting."""
    client = stack.enter_context(socket.socket())
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, listener.getsockname())
    async with asyncio.timeout(10):
        return await loop.sock_recv(client, 5)


@pytest.mark.parametrize("at_once", [True, False])
async def test_connections_are_shared_evenly(listener: socket.socket, *, at_once: bool) -> None:
    """Each process gets a fair share, whether clients connect at the same time or one after the other."""
    regions = regions_for(2)
    processes = [Process(listener, regions, number) for number in range(2)]
    with clients() as stack:
        if at_once:
            said = await asyncio.gather(*(greeted(stack, listener) for _ in range(20)))
        else:
            said = [await greeted(stack, listener) for _ in range(20)]
    for process in processes:
        await process.end()

    assert said == [b"hello"] * 20
    numbers = sorted(len(process.connections) for process in processes)
    assert numbers[0] >= 8


async def test_connections_do_not_wait_for_a_process_that_does_not_accept(listener: socket.socket) -> None:
    """A dead or frozen process has fewer connections. The other process accepts them nevertheless."""
    regions = regions_for(2)
    regions[1].attach()
    process = Process(listener, regions, 0)
    with clients() as stack:
        said = [await greeted(stack, listener) for _ in range(3)]
    await process.end()

    assert said == [b"hello"] * 3
    assert (regions[0].connections, regions[1].connections) == (3, 0)


async def test_a_connection_is_accepted_later_if_file_descriptors_run_out(listener: socket.socket) -> None:
    """The first accept fails because too many files are open. The acceptor tries again."""

    class Full(socket.socket):
        refused = 0

        def accept(self) -> tuple[socket.socket, object]:
            if not self.refused:
                self.refused += 1
                raise OSError(24, "Too many open files")
            return super().accept()

    full = Full(fileno=listener.dup().detach())
    acceptor = Acceptor(full, Greeting, ConnectionBalancer(), int)
    with clients() as stack:
        assert await greeted(stack, listener) == b"hello"
    acceptor.close()
    acceptor.close()
    full.close()

    assert full.refused == 1


async def test_a_connection_accepted_during_the_shutdown_is_shut_down_too(listener: socket.socket) -> None:
    """Its protocol is created after all others were shut down, and would otherwise delay the end."""
    process = Process(listener, regions_for(1), 0)
    process.ends_with_the_first = True
    with clients() as stack:
        assert await greeted(stack, listener) == b"hello"
        await process.end()

    assert [greeting.was_told_to_end for greeting in process.connections] == [True]


def test_the_connection_balancer_ignores_a_worker_slot_without_a_worker() -> None:
    """The slot has no connections, but no process would accept them either."""
    regions = regions_for(2)
    share = ConnectionBalancer(regions, 0)
    assert not share.is_ahead(5)
    regions[1].attach()
    assert share.is_ahead(5)
    regions[1].connections = 5
    assert not share.is_ahead(5)
    assert not ConnectionBalancer().is_ahead(5)
