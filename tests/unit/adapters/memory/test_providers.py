"""The provider that says what it was told to say."""

from __future__ import annotations

import asyncio

import pytest

from harness.chat_scene import event, outgoing_request, pause
from ibex.adapters.memory.providers import InMemoryProvider, InMemoryStream, Silence
from ibex.domain.errors import ProviderTimeoutError, ProviderUnavailableError
from ibex.domain.proxying.provider import ProviderBody


async def test_answers_come_in_their_order_and_requests_are_remembered() -> None:
    """Each once; an error is raised, and so is the lack of an answer."""
    body, stream = ProviderBody(b"{}"), InMemoryStream()
    provider = InMemoryProvider(body, ProviderTimeoutError())
    provider.answers.append(stream)
    requests = [outgoing_request(), outgoing_request(stream=True), outgoing_request()]
    assert await provider.complete(requests[0]) is body
    with pytest.raises(ProviderTimeoutError):
        await provider.complete(requests[1])
    assert await provider.complete(requests[1]) is stream
    with pytest.raises(ProviderUnavailableError):
        await provider.complete(requests[2])
    assert provider.requests == [requests[0], requests[1], requests[1], requests[2]]


async def test_a_silent_provider_counts_who_gave_up() -> None:
    """A cancelled request is one that was stopped."""
    provider = InMemoryProvider(Silence.FOR_EVER)
    asking = asyncio.create_task(provider.complete(outgoing_request()))
    await pause()
    asking.cancel()
    await asyncio.wait([asking])
    assert (asking.cancelled(), provider.cancelled) == (True, 1)


async def test_a_stream_gives_its_reads_and_raises_its_errors() -> None:
    """What was given out is counted."""
    stream = InMemoryStream([event(b"1"), event(b"2")], ProviderUnavailableError(), attempts=2)
    reads = aiter(stream)
    assert list(await anext(reads)) == [event(b"1"), event(b"2")]
    with pytest.raises(ProviderUnavailableError):
        await anext(reads)
    assert (stream.given, stream.attempts, stream.closed) == (1, 2, False)


async def test_a_closed_stream_ends_also_for_who_waits() -> None:
    """A reader that waits for silence is let go."""
    stream = InMemoryStream(Silence.FOR_EVER)
    reading = asyncio.ensure_future(anext(aiter(stream), None))
    await pause()
    await stream.aclose()
    assert await reading is None
    assert stream.closed


async def test_a_silent_stream_counts_who_gave_up() -> None:
    """A cancelled read is not a closed stream."""
    stream = InMemoryStream(Silence.FOR_EVER)
    reading = asyncio.ensure_future(anext(aiter(stream)))
    await pause()
    reading.cancel()
    await asyncio.wait([reading])
    assert (stream.cancelled, stream.closed) == (1, False)
