"""Tests of the watch within one process."""

from __future__ import annotations

from uuid import UUID

from harness.memory.change_log import InMemoryChangeLog
from ibex.adapters.memory.watch import InProcessWatch
from ibex.domain.freshness.change_log import Change, Events, Pong, StreamStart, WatchServer
from ibex.domain.freshness.kinds import Kind

ORG = UUID(int=1)


async def test_a_stream_carries_pings_and_messages() -> None:
    """Both directions keep the order."""
    log = InMemoryChangeLog()
    server = WatchServer(log)
    async with InProcessWatch(server).open(None) as stream:
        messages = aiter(stream)
        stream.ping(1)
        await server.answer()
        assert [await anext(messages), await anext(messages)] == [StreamStart("1:0"), Pong(1, "1:0")]
        log.append(ORG, Kind.AGENTS)
        stream.ping(2)
        await server.answer()
        assert [await anext(messages), await anext(messages)] == [Events([Change(ORG, Kind.AGENTS)]), Pong(2, "1:1")]


async def test_a_closed_stream_gets_no_pong() -> None:
    """Closing the stream drops the pending ping."""
    server = WatchServer(InMemoryChangeLog())
    async with InProcessWatch(server).open("1:0") as stream:
        stream.ping(1)
    await server.answer()
    async with InProcessWatch(server).open("1:0") as another:
        another.ping(1)
        await server.answer()
        assert await anext(aiter(another)) == Pong(1, "1:0")
