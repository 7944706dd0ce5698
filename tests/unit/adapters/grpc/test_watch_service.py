"""Tests of the server side of the watch, without a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from harness.memory.identity import InMemoryIdentity
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.watch_service import MAX_CHANGES, WatchService
from ibex.domain.freshness.change_log import WatchServer
from ibex.domain.freshness.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORG = UUID(int=1)
MAX_QUEUED = 4


class Scene:
    """A stream whose worker reads only when the test says so."""

    def __init__(self) -> None:
        self.store = InMemoryIdentity()
        self.server = WatchServer(self.store.change_log)
        self.service = WatchService(self.server, self.store, max_queued=MAX_QUEUED)
        self.requests: asyncio.Queue[auth_pb2.WatchRequest] = asyncio.Queue()
        self.requests.put_nowait(auth_pb2.WatchRequest(open=auth_pb2.WatchRequest.Open()))
        self.responses = self.service.watch(self._sent())
        self._ping = 0

    async def ping(self) -> None:
        """Send a ping and let the server answer it, without reading the response."""
        self._ping += 1
        self.requests.put_nowait(auth_pb2.WatchRequest(ping=self._ping))
        while not self.requests.empty():  # noqa: ASYNC110 - the service has its turn of the event loop
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self.server.answer()

    async def begin(self) -> None:
        """Open the stream and read its first responses."""
        reading = asyncio.ensure_future(anext(self.responses))
        await self.ping()
        assert (await reading).HasField("first")
        assert (await anext(self.responses)).HasField("pong")

    async def _sent(self) -> AsyncIterator[auth_pb2.WatchRequest]:
        while True:
            yield await self.requests.get()


async def test_a_stream_ends_once_the_queue_of_a_worker_that_does_not_read_is_full() -> None:
    """The number of pings does not matter."""
    scene = Scene()
    await scene.begin()
    for _ in range(10 * MAX_QUEUED):
        await scene.ping()

    rest = [response.WhichOneof("response") async for response in scene.responses]

    assert rest == ["pong"] * MAX_QUEUED


async def test_changes_that_exceed_the_queue_are_delivered() -> None:
    """Their pong is delivered too. Otherwise the worker would resume from the same position forever."""
    scene = Scene()
    await scene.begin()
    for _ in range((MAX_QUEUED + 1) * MAX_CHANGES):
        scene.store.change_log.append(ORG, Kind.TOKENS)
    await scene.ping()

    received = [(await anext(scene.responses)).WhichOneof("response") for _ in range(MAX_QUEUED + 2)]
    await scene.ping()
    after = await anext(scene.responses)
    await scene.responses.aclose()  # type: ignore[attr-defined]

    assert received == ["events"] * (MAX_QUEUED + 1) + ["pong"]
    assert after.pong.ping == 3


async def test_ending_all_streams_delivers_their_queued_responses_first() -> None:
    """A second ``end_all`` has no effect."""
    scene = Scene()
    await scene.begin()
    await scene.ping()
    scene.service.end_all()
    scene.service.end_all()

    rest = [response.WhichOneof("response") async for response in scene.responses]

    assert rest == ["pong"]
