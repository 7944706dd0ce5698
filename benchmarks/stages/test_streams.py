"""One event of a stream: from the bytes of the provider's connection to those of the client's (ADR 0068)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.openai_wire import chunked
from harness.server_connection import RecordingTransport
from harness.stream_scene import StreamScene

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark(group="3 answer")

EVENT = chunked(
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",'
    b'"choices":[{"index":0,"delta":{"content":" mountain"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)


class _Client(RecordingTransport):
    """The client of a stream. It keeps the last writing alone."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the data."""
        self.written = bytes(data)
        self.something_written.set()


async def _events(scene: StreamScene, count: int) -> None:
    """Pass on events, each in a turn of the loop."""
    for _ in range(count):
        scene.client.written = b""
        scene.upstream.feed(EVENT)
        await asyncio.sleep(0)
        assert scene.client.written == EVENT


def test_100_events_of_a_stream(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    """Read, split, fold and write events that arrive one by one; 100 of them, because a run of the loop costs too."""
    scene = StreamScene(_Client())
    loop.run_until_complete(scene.begin())
    loop.run_until_complete(_events(scene, 10))

    benchmark(lambda: loop.run_until_complete(_events(scene, 100)))

    loop.run_until_complete(scene.leave())
