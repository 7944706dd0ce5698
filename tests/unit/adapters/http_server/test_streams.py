"""Streams of direct requests, from the bytes of the provider's connection to those of the client's (ADR 0068)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.openai_wire import DONE, chunked, stream_events, text_deltas
from harness.server_connection import RecordingTransport
from harness.simulated_time import in_simulated_time
from harness.stream_scene import StreamScene
from ibex.adapters.http_client.connection import MAX_UNREAD_BYTES
from ibex.domain.errors import ErrorCode

if TYPE_CHECKING:
    from ibex.domain.record.exchange import Exchange

*TEXTS, USAGE, _ = stream_events(text_deltas("Grüße", " an ", "alle"))
EVENTS = [*TEXTS, DONE]


async def begun(client: RecordingTransport | None = None, *, idle_s: float = 60.0) -> StreamScene:
    """Return a stream that has begun; the writings are those of its events."""
    scene = StreamScene(client, idle_s=idle_s)
    await scene.begin()
    scene.client.writings.clear()
    return scene


def dechunked(writings: list[bytes]) -> bytes:
    """Return the body of a response from its chunks."""
    raw, body = b"".join(writings), b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        length = int(size, 16)
        body, raw = body + rest[:length], rest[length + 2 :]
    return body


def exchange_of(scene: StreamScene) -> Exchange:
    """Return the one recorded exchange."""
    return scene.http.chat.exchange


async def test_an_event_that_arrives_alone_is_sent_before_the_next_turn_of_the_loop() -> None:
    """No task wakes up for it, not even for the first one."""
    scene = await begun()

    for event in EVENTS[:3]:
        scene.arrive(event)
        assert scene.client.writings.pop() == chunked(event)

    await scene.leave()


async def test_events_that_arrive_in_one_read_are_sent_in_one_write() -> None:
    """They are one chunk for the client, although the provider sent each in a chunk."""
    scene = await begun()

    scene.arrive(*EVENTS[:3])

    assert scene.client.writings == [chunked(b"".join(EVENTS[:3]))]
    await scene.leave()


async def test_a_part_of_an_event_waits_for_the_rest() -> None:
    """A complete event in front of it does not wait."""
    scene = await begun()

    scene.arrive(EVENTS[0] + EVENTS[1][:9])
    assert scene.client.writings == [chunked(EVENTS[0])]
    scene.arrive(EVENTS[1][9:20])
    scene.arrive(EVENTS[1][20:])

    assert scene.client.writings[1:] == [chunked(EVENTS[1])]
    await scene.leave()


async def test_the_end_of_a_stream_is_sent_after_its_exchange_is_in_the_journal() -> None:
    """This holds for the events of the same read too."""
    kept_at_end: list[int] = []

    class Client(RecordingTransport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            super().write(data)
            if DONE in bytes(data):
                kept_at_end.append(len(scene.http.chat.journal.kept))

    scene = await begun(Client())
    scene.arrive(*EVENTS[:-1])
    scene.arrive(DONE)
    assert kept_at_end == []
    await scene.end()

    assert kept_at_end == [1]
    assert dechunked(scene.client.writings) == b"".join(EVENTS)
    assert exchange_of(scene).is_complete


async def test_the_usage_that_the_client_did_not_ask_for_is_hidden() -> None:
    """An event that is hidden makes no write."""
    scene = await begun()
    scene.arrive(*EVENTS[:-1])
    scene.client.writings.clear()

    scene.arrive(USAGE)
    assert scene.client.writings == []
    scene.arrive(DONE)
    await scene.end()

    assert dechunked(scene.client.writings) == DONE
    assert exchange_of(scene).summary.usage.total_tokens == 11


async def test_a_client_that_is_behind_stops_the_reading_from_the_provider() -> None:
    """Nothing is written meanwhile, and nothing is lost or repeated."""
    scene = await begun()
    scene.protocol.pause_writing()

    scene.arrive(EVENTS[0])
    scene.arrive(EVENTS[1])
    await asyncio.sleep(0)
    large = b"data: " + b"x" * MAX_UNREAD_BYTES + b"\n\n"
    scene.arrive(large)
    written, is_read = [*scene.client.writings], scene.upstream.transport.reading
    scene.protocol.resume_writing()
    for _ in range(3):
        await asyncio.sleep(0)
    assert scene.upstream.transport.reading
    scene.arrive(*EVENTS[2:])
    await scene.end()

    assert (written, is_read) == ([], False)
    assert dechunked(scene.client.writings) == b"".join([*EVENTS[:2], large, *EVENTS[2:]])


async def test_a_client_that_leaves_stops_the_provider() -> None:
    """The events that it got are recorded."""
    scene = await begun()
    scene.arrive(EVENTS[0])

    await scene.leave()

    assert scene.upstream.transport.aborted
    assert exchange_of(scene).error_code is ErrorCode.CLIENT_CLOSED_REQUEST
    scene.arrive(EVENTS[1])
    assert scene.client.writings == [chunked(EVENTS[0])]


@in_simulated_time
async def test_a_provider_that_falls_silent_times_out() -> None:
    """The limit of silence begins with the last event, although its reader waits since the first."""
    scene = await begun(idle_s=4.0)
    loop = asyncio.get_running_loop()

    began = loop.time()
    loop.call_at(began + 1, scene.arrive, EVENTS[0])
    loop.call_at(began + 4, scene.arrive, EVENTS[1])
    await scene.end()

    assert loop.time() == pytest.approx(began + 8)
    assert exchange_of(scene).error_code is ErrorCode.PROVIDER_TIMEOUT
    assert b'"error"' in dechunked(scene.client.writings)


@pytest.mark.parametrize("events", [EVENTS[:2], []])
async def test_a_lost_connection_ends_with_an_error_event(events: list[bytes]) -> None:
    """The events before it are delivered, without the incomplete one."""
    scene = await begun()
    scene.arrive(*events, b"data: half")
    scene.upstream.connection.connection_lost(None)
    await scene.end()

    body = dechunked(scene.client.writings)
    assert body.startswith(b"".join(events) + b'data: {"error"')
    assert b"half" not in body
    assert exchange_of(scene).error_code is ErrorCode.PROVIDER_UNAVAILABLE


WHOLE = b"".join([EVENTS[0], b": comment\r\n\r\n", *EVENTS[1:-1], b"event: x\rdata: y\r\r", DONE])
STEPS = st.lists(st.sampled_from(["turn", "pause", "resume"]), max_size=3)
ARRIVALS = st.dictionaries(st.integers(1, len(WHOLE) - 1), STEPS, max_size=12)
"""The places at which the stream is cut, and what happens after the piece that ends there has arrived."""


@settings(max_examples=60, deadline=None)
@given(ARRIVALS)
def test_any_arrival_is_forwarded_byte_for_byte(arrivals: dict[int, list[str]]) -> None:
    """However the stream is cut, whenever the client is behind, and however long the task waits for its turn."""

    async def run() -> None:
        scene = await begun()
        start = 0
        for end in [*sorted(arrivals), len(WHOLE)]:
            scene.arrive(WHOLE[start:end])
            start = end
            for step in arrivals.get(end, []):
                if step == "turn":
                    await asyncio.sleep(0)
                elif step == "pause":
                    scene.protocol.pause_writing()
                else:
                    scene.protocol.resume_writing()
        scene.protocol.resume_writing()
        scene.arrive(b"")
        await scene.end()
        assert dechunked(scene.client.writings) == WHOLE
        exchange = exchange_of(scene)
        assert exchange.is_complete
        assert exchange.summary.completion_hash == hashlib.sha256("Grüße an alle".encode()).hexdigest()

    asyncio.run(run())
