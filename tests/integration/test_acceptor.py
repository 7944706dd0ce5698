"""Processes on one socket share its connections."""

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
    """Says hello."""

    was_told_to_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say it."""
        cast("asyncio.WriteTransport", transport).write(b"hello")

    def shutdown(self) -> None:
        """Remember it."""
        self.was_told_to_end = True


class Process:
    """What stands for one of the processes on a socket."""

    def __init__(self, listener: socket.socket, regions: list[SharedMemorySegment], number: int) -> None:
        self.connections: list[Greeting] = []
        self.ends_with_the_first = False
        regions[number].attach()
        share = ConnectionBalancer(regions, number)
        self._listener = listener.dup()
        self._acceptor = Acceptor(self._listener, self._made, share, self.connections.__len__)

    async def end(self) -> None:
        """Accept nothing more."""
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
    """Return the regions of so many processes."""
    memory = mmap.mmap(-1, number * SEGMENT_BYTES)
    return [SharedMemorySegment(memory, own) for own in range(number)]


@contextmanager
def clients() -> Iterator[ExitStack]:
    """Hold clients' connections, and close them afterwards."""
    with ExitStack() as stack:
        yield stack


async def greeted(stack: ExitStack, listener: socket.socket) -> bytes:
    """Connect, keep the connection, and return what is said."""
    client = stack.enter_context(socket.socket())
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, listener.getsockname())
    async with asyncio.timeout(10):
        return await loop.sock_recv(client, 5)


@pytest.mark.parametrize("at_once", [True, False])
async def test_connections_are_shared_evenly(listener: socket.socket, *, at_once: bool) -> None:
    """Whether they come together or one after the other."""
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


async def test_nobody_waits_for_a_process_that_does_not_accept(listener: socket.socket) -> None:
    """It has fewer connections, and is dead or frozen."""
    regions = regions_for(2)
    regions[1].attach()
    process = Process(listener, regions, 0)
    with clients() as stack:
        said = [await greeted(stack, listener) for _ in range(3)]
    await process.end()

    assert said == [b"hello"] * 3
    assert (regions[0].connections, regions[1].connections) == (3, 0)


async def test_what_the_system_has_no_room_for_is_accepted_later(listener: socket.socket) -> None:
    """Too many files are open, for a moment."""

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


async def test_what_is_accepted_just_before_the_end_is_told_of_it(listener: socket.socket) -> None:
    """Its protocol is made after all others were told: nobody would wait for it in vain."""
    process = Process(listener, regions_for(1), 0)
    process.ends_with_the_first = True
    with clients() as stack:
        assert await greeted(stack, listener) == b"hello"
        await process.end()

    assert [greeting.was_told_to_end for greeting in process.connections] == [True]


def test_a_place_that_nobody_has_taken_yet_does_not_count() -> None:
    """Its connections are 0, but nobody would accept them there."""
    regions = regions_for(2)
    share = ConnectionBalancer(regions, 0)
    assert not share.is_ahead(5)
    regions[1].attach()
    assert share.is_ahead(5)
    regions[1].connections = 5
    assert not share.is_ahead(5)
    assert not ConnectionBalancer().is_ahead(5)
