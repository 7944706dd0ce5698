"""Tests of a streamed response of OpenAI's API."""

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
from ibex.domain.provider_errors import ProviderTimeoutError, ProviderUnavailableError

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
        self.stream = OpenAIStream(body, AttemptInfo(2, "req_7", 412))
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
        """Return all bytes of the events."""
        return b"".join(event.raw for event in self.events)


async def test_each_read_returns_the_events_that_it_completes() -> None:
    """An event does not wait for the next one, and no read returns an empty list."""
    scene = Scene(EVENTS[0], EVENTS[1] + EVENTS[2][:10], EVENTS[2][10:20], EVENTS[2][20:], EVENTS[3], EVENTS[4])
    await scene.read()
    assert scene.reads == 5
    assert [event.raw for event in scene.events] == EVENTS[:5]


async def test_a_stream_cut_at_every_byte_is_reassembled() -> None:
    """Cuts may be within a character. The data of each event is JSON."""
    scene = Scene(*(WHOLE[i : i + 1] for i in range(len(WHOLE))))
    await scene.read()
    assert [event.raw for event in scene.events] == EVENTS
    text = "".join(
        choice["delta"].get("content", "")
        for event in scene.events[:-1]
        for choice in json.loads(event.data or b"")["choices"]
    )
    assert text == "Grüße 🙂"


async def test_a_stream_has_the_attempts_and_the_values_of_the_headers() -> None:
    """The exchange records the attempts and the request id."""
    stream = Scene().stream
    assert (stream.attempts, stream.provider_request_id, stream.processing_ms) == (2, "req_7", 412)


async def test_a_compressed_stream_is_decompressed() -> None:
    """The provider compresses it although the request did not ask for compression."""
    scene = Scene(gzip.compress(WHOLE), coding="gzip")
    await scene.read()
    assert scene.raw == WHOLE


async def test_the_events_before_an_error_are_returned_first() -> None:
    """An incomplete event is dropped, because the error event would become part of it."""
    scene = Scene(EVENTS[0] + EVENTS[1][:10], httpx.ReadError("reset by peer"))
    with pytest.raises(ProviderUnavailableError) as raised:
        await scene.read()
    assert [event.raw for event in scene.events] == [EVENTS[0]]
    assert (raised.value.attempts, raised.value.provider_request_id) == (2, "req_7")
    await scene.read()
    assert scene.reads == 1


async def test_an_error_after_complete_events_is_raised_after_them() -> None:
    """No incomplete event is left to drop."""
    scene = Scene(EVENTS[0], httpx.RemoteProtocolError("incomplete chunked read"))
    with pytest.raises(ProviderUnavailableError):
        await scene.read()
    assert scene.raw == EVENTS[0]


async def test_a_silent_provider_times_out() -> None:
    """The complete events that arrived are returned first."""
    scene = Scene(EVENTS[0] + b"data: ha", HUSH, idle_s=0.02)
    with pytest.raises(ProviderTimeoutError) as raised:
        await scene.read()
    assert scene.raw == EVENTS[0]
    assert raised.value.attempts == 2


async def test_an_end_without_done_ends_the_stream() -> None:
    """An incomplete event is returned without data. The response reader decides whether the stream is complete."""
    scene = Scene(EVENTS[0], b"data: half")
    await scene.read()
    assert [(event.raw, event.data is None) for event in scene.events] == [(EVENTS[0], False), (b"data: half", True)]


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n", b"data: [DONE]\r"])
async def test_done_without_a_blank_line_is_accepted(end: bytes) -> None:
    """The bytes are unchanged."""
    scene = Scene(EVENTS[0], end)
    await scene.read()
    assert [(event.raw, event.data) for event in scene.events[1:]] == [(end, b"[DONE]")]


@pytest.mark.parametrize("end", [b"data: [DONE", b"data: half\ndata: [DONE]", b"data: [DONE] ", b": [DONE]"])
async def test_other_incomplete_events_have_no_data(end: bytes) -> None:
    """They may have been cut off."""
    scene = Scene(EVENTS[0], end)
    await scene.read()
    assert [(event.raw, event.data) for event in scene.events[1:]] == [(end, None)]


async def test_the_connection_of_a_stream_without_done_is_not_reused() -> None:
    """More data may follow the end of its framing. With ``[DONE]`` the connection is reused."""
    early, whole = Scene(EVENTS[0]), Scene(WHOLE)
    await early.read()
    await whole.read()
    assert (early.network_stream.closed, whole.network_stream.closed) == (1, 0)


async def test_closing_a_running_stream_closes_its_body_at_once() -> None:
    """Nothing more is read, and iterating over the stream ends."""
    scene = Scene(EVENTS[0], EVENTS[1], HUSH)
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.given, scene.body.closed) == (1, 1)
    await scene.read()
    assert scene.events == []


async def test_closing_after_done_drains_the_body() -> None:
    """The reader stops at ``[DONE]``, and the connection can be reused only after the end of the body."""
    scene = Scene(WHOLE, b"")
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.ended, scene.body.closed) == (True, 1)


async def test_closing_after_done_does_not_wait_for_a_hanging_provider() -> None:
    """If the body does not end, it is closed without being drained."""
    scene = Scene(WHOLE, HUSH)
    assert await anext(scene.stream)
    await scene.stream.aclose()
    assert (scene.body.ended, scene.body.closed) == (False, 1)


async def test_closing_twice_before_the_first_read_closes_the_body_once() -> None:
    """Closing is idempotent."""
    scene = Scene(WHOLE)
    await scene.stream.aclose()
    await scene.stream.aclose()
    assert (scene.body.given, scene.body.closed) == (0, 1)


@pytest.mark.parametrize("chunks", [EVENTS[:2], [*EVENTS[:2], HUSH], [WHOLE, HUSH], [EVENTS[0], httpx.ReadError("x")]])
async def test_a_cancellation_closes_the_body(chunks: list[Chunk]) -> None:
    """The test cancels at every wait of reading and closing, before or after the data has arrived."""
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


async def test_done_is_detected_among_other_events_of_a_read() -> None:
    """A comment after ``[DONE]`` does not hide it."""
    scene = Scene(DONE + b": bye\n\n")
    await scene.read()
    assert scene.network_stream.closed == 0
