"""The watch of a worker and the server that answers it, in simulated time."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.memory.change_log import InMemoryChangeLog
from harness.simulated_time import LoopClock, in_simulated_time
from ibex.adapters.memory.watch import InProcessWatch
from ibex.domain.freshness.change_log import (
    Change,
    Events,
    Pong,
    SourceUnavailable,
    StreamStart,
    WatchMessage,
    WatchServer,
)
from ibex.domain.freshness.kinds import NS, Kind
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import PING_INTERVAL_S, SILENCE_S, StreamLostError, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.freshness.change_log import ChangesRead

ORG = UUID(int=1)


@dataclass(slots=True, eq=False)
class Received:
    """A ``WatchClient`` that keeps the messages."""

    messages: list[WatchMessage] = field(default_factory=list)

    def send(self, message: WatchMessage) -> None:
        """Keep the message."""
        self.messages.append(message)


async def test_a_first_stream_gets_its_first_position_before_the_pong() -> None:
    """The worker invalidates everything, and receives every change after that position."""
    server, client = WatchServer(InMemoryChangeLog()), Received()
    server.open(client, None)
    server.ping(client, 7)
    await server.answer()
    assert client.messages == [StreamStart("1:0"), Pong(7, "1:0")]


async def test_a_stream_that_resumes_gets_the_events_after_its_position() -> None:
    """The events come first, the pong last."""
    log = InMemoryChangeLog()
    server, client = WatchServer(log), Received()
    server.open(client, "1:0")
    log.append(ORG, Kind.TOKENS)
    server.ping(client, 1)
    await server.answer()
    server.ping(client, 2)
    await server.answer()
    assert client.messages == [Events([Change(ORG, Kind.TOKENS)]), Pong(1, "1:1"), Pong(2, "1:1")]


@pytest.mark.parametrize("lost", ["pruned", "incarnation"])
async def test_a_stream_that_cannot_resume_gets_a_new_first_position(lost: str) -> None:
    """The log does not reach back that far, or the position belongs to another database."""
    log = InMemoryChangeLog()
    server, client = WatchServer(log), Received()
    log.append(ORG, Kind.TOKENS)
    log.prune(0) if lost == "pruned" else log.begin_incarnation()
    server.open(client, "1:0")
    server.ping(client, 1)
    await server.answer()
    assert isinstance(client.messages[0], StreamStart)


async def test_streams_at_the_same_position_share_a_read() -> None:
    """One read of the log serves any number of workers."""

    class Counted(InMemoryChangeLog):
        reads = 0

        async def read(self, since: str | None) -> ChangesRead:
            self.reads += 1
            return await super().read(since)

    log = Counted()
    server, clients = WatchServer(log), [Received() for _ in range(50)]
    for client in clients:
        server.open(client, None)
        server.ping(client, 1)
    await server.answer()
    assert log.reads == 1
    assert all(isinstance(client.messages[-1], Pong) for client in clients)


async def test_an_unreadable_log_is_reported_to_the_worker() -> None:
    """The worker then connects to another replica."""
    log = InMemoryChangeLog()
    log.reachable = False
    server, client = WatchServer(log), Received()
    server.open(client, None)
    server.ping(client, 1)
    await server.answer()
    assert client.messages == [SourceUnavailable()]


async def test_a_closed_stream_receives_nothing() -> None:
    """A ping that was waiting is not answered."""
    server, client = WatchServer(InMemoryChangeLog()), Received()
    server.open(client, None)
    server.ping(client, 1)
    server.close(client)
    server.close(client)
    await server.answer()
    assert client.messages == []


@asynccontextmanager
async def running(*work: Watch | WatchServer) -> AsyncIterator[None]:
    """Run watch and server during the block."""
    tasks = [asyncio.ensure_future(each.run()) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@in_simulated_time
async def test_a_pong_confirms_the_time_at_which_its_ping_was_sent() -> None:
    """The watch sends a ping twice a second."""
    server, validity = WatchServer(InMemoryChangeLog()), Validity()
    async with running(server, Watch(InProcessWatch(server), validity, LoopClock(), lambda: 0.0)):
        await asyncio.sleep(10 * PING_INTERVAL_S + 0.1)
        assert validity.confirmed_ns == pytest.approx(10 * PING_INTERVAL_S * NS)


@in_simulated_time
async def test_waiting_for_a_pong_ignores_pongs_of_earlier_pings() -> None:
    """The pong of an earlier ping proves nothing about later changes."""
    clock, server, validity = LoopClock(), WatchServer(InMemoryChangeLog()), Validity()
    watch = Watch(InProcessWatch(server), validity, clock, lambda: 0.0)
    async with running(server, watch):
        await asyncio.sleep(0.6)
        began_ns = clock.monotonic_ns()
        await watch.pong_after(began_ns)
        assert validity.confirmed_ns > began_ns
        assert clock.monotonic_ns() == pytest.approx(1.0 * NS)


class Scripted:
    """A ``WatchConnector`` whose streams stay silent or break. It notes the time and position of each stream."""

    def __init__(self, *behaviours: str) -> None:
        self.opened: list[tuple[float, str | None]] = []
        self._behaviours = list(behaviours)

    @asynccontextmanager
    async def open(self, position: str | None) -> AsyncIterator[ScriptedStream]:
        """Open the next stream."""
        self.opened.append((asyncio.get_running_loop().time(), position))
        behaviour = self._behaviours.pop(0) if self._behaviours else "silent"
        if behaviour == "refused":
            raise StreamLostError
        if behaviour == "hangs":
            await asyncio.get_running_loop().create_future()
        yield ScriptedStream(behaviour)


class ScriptedStream:
    """One stream of a ``Scripted``."""

    def __init__(self, behaviour: str) -> None:
        self._behaviour = behaviour
        self._messages: asyncio.Queue[WatchMessage | None] = asyncio.Queue()

    def ping(self, number: int) -> None:
        """Answer as the script says."""
        if self._behaviour == "answers once" and number == 1:
            self._messages.put_nowait(StreamStart("a"))
            self._messages.put_nowait(Pong(number, "b"))
        elif self._behaviour == "source unavailable":
            self._messages.put_nowait(SourceUnavailable())
        elif self._behaviour == "breaks":
            self._messages.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[WatchMessage]:
        """Return what was answered."""
        while (message := await self._messages.get()) is not None:
            yield message
        raise StreamLostError


@pytest.mark.parametrize(
    ("behaviour", "replaced_after_s"),
    [("silent", SILENCE_S), ("hangs", SILENCE_S), ("refused", 0), ("breaks", 0), ("source unavailable", 0)],
)
@in_simulated_time
async def test_a_silent_or_broken_stream_is_replaced(behaviour: str, replaced_after_s: float) -> None:
    """The first delay is short, and later delays grow."""
    connector = Scripted(*[behaviour] * 50)
    async with running(Watch(connector, Validity(), LoopClock(), lambda: 1.0)):
        await asyncio.sleep(30)
    times = [time for time, _ in connector.opened]
    gaps = [after - before - replaced_after_s for before, after in itertools.pairwise(times)]
    assert 0.05 <= gaps[0] < 0.05 + PING_INTERVAL_S + 0.01
    assert max(gaps) <= 1.0 + PING_INTERVAL_S + 0.01
    assert len(times) > 8


@in_simulated_time
async def test_a_new_stream_resumes_from_the_last_pong() -> None:
    """It repeats the events after that pong."""
    connector = Scripted("answers once")
    async with running(Watch(connector, Validity(), LoopClock(), lambda: 0.0)):
        await asyncio.sleep(4)
    assert [position for _, position in connector.opened][:2] == [None, "b"]


@in_simulated_time
async def test_waiting_for_a_pong_can_time_out() -> None:
    """A request does not wait forever for a watch that is disconnected."""
    watch = Watch(Scripted(), Validity(), LoopClock(), lambda: 0.0)
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await watch.pong_after(0)
    assert asyncio.get_running_loop().time() == 1
