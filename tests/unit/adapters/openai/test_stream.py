"""A streamed answer of OpenAI's API."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.openai_wire import DONE, stream_events, text_deltas
from harness.upstream import HUSH, FakeBody, FakeNetworkStream
from ibex.adapters.http_client.response_body import ResponseBody, TimeLimits
from ibex.adapters.http_client.upstream import HttpxResponse
from ibex.adapters.openai.errors import AttemptInfo
from ibex.adapters.openai.stream import OpenAIStream
from ibex.domain.errors import ProviderTimeoutError, ProviderUnavailableError

if TYPE_CHECKING:
    from harness.upstream import Chunk
    from ibex.domain.proxying.provider import StreamEvent

LONG_S = 30.0
EVENTS = stream_events(text_deltas("Grüße", " 🙂"))
WHOLE = b"".join(EVENTS)


class Scene:
    """A stream over a fake body."""

    def __init__(self, *chunks: Chunk, idle_s: float = LONG_S, coding: str = "identity") -> None:
        self.body = FakeBody(chunks)
        self.network_stream = FakeNetworkStream()
        extensions = {"network_stream": self.network_stream}
        response = httpx.Response(200, headers={"content-encoding": coding}, stream=self.body, extensions=extensions)
        now = asyncio.get_running_loop().time()
        body = ResponseBody(HttpxResponse(response), TimeLimits(now + LONG_S, now + LONG_S, idle_s))
        self.stream = OpenAIStream(body, AttemptInfo(2, "req_7"))
        self.events: list[StreamEvent] = []
        self.reads = 0

    async def read(self) -> None:
        """Read the stream to its end."""
        async for events in self.stream:
            self.reads += 1
            assert events
            self.events += events

    @property
    def raw(self) -> bytes:
        """All bytes that came."""
        return b"".join(event.raw for event in self.events)


async def test_each_read_gives_the_events_it_completed() -> None:
    """An event is not kept waiting for the next, and no read is without events."""
    scene = Scene(EVENTS[0], EVENTS[1] + EVENTS[2][:10], EVENTS[2][10:20], EVENTS[2][20:], EVENTS[3], EVENTS[4])
    await scene.read()
    assert scene.reads == 5
    assert [event.raw for event in scene.events] == EVENTS[:5]


async def test_a_stream_cut_at_every_byte_is_whole_again() -> None:
    """Also within a character; each event's data is JSON."""
    scene = Scene(*(WHOLE[i : i + 1] for i in range(len(WHOLE))))
    await scene.read()
    assert [event.raw for event in scene.events] == EVENTS
    text = "".join(
        choice["delta"].get("content", "")
        for event in scene.events[:-1]
        for choice in json.loads(event.data or b"")["choices"]
    )
    assert text == "Grüße 🙂"


async def test_it_knows_its_tries_and_the_providers_id() -> None:
    """For the record."""
    assert (Scene().stream.attempts, Scene().stream.provider_request_id) == (2, "req_7")


async def test_a_compressed_stream_is_undone() -> None:
    """Though it was not asked for."""
    scene = Scene(gzip.compress(WHOLE), coding="gzip")
    await scene.read()
    assert scene.raw == WHOLE


async def test_what_came_before_a_break_is_given_out_first() -> None:
    """Whole events with their data, not half of one, which an error event would become a part of; then the error."""
    scene = Scene(EVENTS[0] + EVENTS[1][:10], httpx.ReadError("reset by peer"))
    with pytest.raises(ProviderUnavailableError) as raised:
        await scene.read()
    assert [event.raw for event in scene.events] == [EVENTS[0]]
    assert (raised.value.attempts, raised.value.provider_request_id) == (2, "req_7")
    await scene.read()
    assert scene.reads == 1


async def test_a_break_after_whole_events_is_an_error_too() -> None:
    """There is nothing to give out before it."""
    scene = Scene(EVENTS[0], httpx.RemoteProtocolError("incomplete chunked read"))
    with pytest.raises(ProviderUnavailableError):
        await scene.read()
    assert scene.raw == EVENTS[0]


async def test_a_silent_provider_is_a_timeout() -> None:
    """After what came was given out."""
    scene = Scene(EVENTS[0] + b"data: ha", HUSH, idle_s=0.02)
    with pytest.raises(ProviderTimeoutError) as raised:
        await scene.read()
    assert scene.raw == EVENTS[0]
    assert raised.value.attempts == 2


async def test_an_end_without_done_is_an_end() -> None:
    """Half an event at it is given out as bytes. What that end means is not for the adapter to say."""
    scene = Scene(EVENTS[0], b"data: half")
    await scene.read()
    assert [(event.raw, event.data is None) for event in scene.events] == [(EVENTS[0], False), (b"data: half", True)]


async def test_the_connection_of_a_stream_that_ended_early_is_not_used_again() -> None:
    """What its framing called the end was not; that of a stream with ``[DONE]`` is."""
    early, whole = Scene(EVENTS[0]), Scene(WHOLE)
    await early.read()
    await whole.read()
    assert (early.network_stream.closed, whole.network_stream.closed) == (1, 0)


async def test_closing_a_running_stream_closes_it_at_once() -> None:
    """Nothing more is read of it, and iterating it further ends."""
    scene = Scene(EVENTS[0], EVENTS[1], HUSH)
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.given, scene.body.closed) == (1, 1)
    await scene.read()
    assert scene.events == []


async def test_closing_after_done_reads_the_end_that_is_left() -> None:
    """The reader stops at ``[DONE]``; the connection must be at its end to be used again."""
    scene = Scene(WHOLE, b"")
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.ended, scene.body.closed) == (True, 1)


async def test_closing_after_done_does_not_wait_for_a_provider_that_goes_on() -> None:
    """The drain is bounded."""
    scene = Scene(WHOLE, HUSH)
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.ended, scene.body.closed) == (False, 1)


async def test_closing_twice_or_before_the_first_read_closes_once() -> None:
    """Idempotent, at any time."""
    scene = Scene(WHOLE)
    await scene.stream.aclose()
    await scene.stream.aclose()
    assert (scene.body.given, scene.body.closed) == (0, 1)


@pytest.mark.parametrize("chunks", [EVENTS[:2], [*EVENTS[:2], HUSH], [WHOLE, HUSH], [EVENTS[0], httpx.ReadError("x")]])
async def test_no_cancellation_leaves_a_body_open(chunks: list[Chunk]) -> None:
    """At every wait of reading and closing, before or after what was waited for has come."""
    cuts_reached = 0
    for suspension in range(1, 12):
        for moment in Moment:
            scene = Scene(*chunks, idle_s=0.02)

            async def converse(scene: Scene = scene) -> None:
                try:
                    async for _ in scene.stream:
                        pass
                except (ProviderTimeoutError, ProviderUnavailableError):
                    pass
                finally:
                    await scene.stream.aclose()

            run = await run_cut(converse, Cut(suspension, moment), Cut(suspension + 1, moment))
            cuts_reached += run.cuts_reached
            assert (run.complaints, run.tasks_left, scene.body.closed) == ([], [], 1)
    assert cuts_reached >= 4


async def test_done_is_known_among_other_events_of_a_read() -> None:
    """A comment after it does not hide it."""
    scene = Scene(DONE + b": bye\n\n")
    await scene.read()
    assert scene.network_stream.closed == 0
