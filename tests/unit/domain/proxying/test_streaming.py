"""A streamed response on its way to the client."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness.chat_scene import DISK_FULL, ChatScene, ScriptedStream, chat_request, event
from ibex.domain.errors import ErrorCode, IbexError
from ibex.domain.provider_errors import ProviderTimeoutError, ProviderUnavailableError
from ibex.domain.proxying.provider import Dialect, StreamEvent
from ibex.domain.proxying.streaming import StreamedResponse
from ibex.domain.record.summary import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLE = event(b'{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}],"usage":null}')
HEL = event(b'{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}],"usage":null}')
LO = event(b'{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}],"usage":null}')
STOP = event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}')
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}')
ERROR = event(b'{"error":{"message":"overloaded","type":"server_error"}}')
DONE = event(b"[DONE]")
COMMENT = StreamEvent(b": keep-alive\n\n")
LATE = event(b'{"late":true}')

HELLO_HASH = hashlib.sha256(b"Hello").hexdigest()


def scene_of(*reads: Sequence[StreamEvent] | Exception, include_usage: bool | None = None) -> ChatScene:
    """Return a scene whose provider streams these reads."""
    return ChatScene(ScriptedStream(reads, attempts=2), chat_request(stream=True, include_usage=include_usage))


async def started(scene: ChatScene) -> StreamedResponse:
    """Return the stream for the scene's client."""
    reply = await scene.use_case()(scene.call())
    assert isinstance(reply, StreamedResponse)
    return reply


async def received(scene: ChatScene) -> tuple[list[bytes], IbexError | None]:
    """Return the bytes for a client that stays to the end, and the error that it gets."""
    stream = await started(scene)
    chunks = []
    try:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - chunks before an error count too
    except IbexError as error:
        return chunks, error
    finally:
        await stream.aclose()
    return chunks, None


def raw(*events: StreamEvent) -> bytes:
    """Return the bytes of events."""
    return b"".join(e.raw for e in events)


async def test_events_are_forwarded_unchanged_with_one_chunk_for_each_read() -> None:
    """The chunks include comments and text that is no event."""
    garbage = StreamEvent(b"data: {nonsense\r\n\r\n", b"{nonsense")
    scene = scene_of([ROLE, HEL], [COMMENT], [garbage], [LO, STOP], [DONE])

    chunks, error = await received(scene)

    assert chunks == [raw(ROLE, HEL), raw(COMMENT), raw(garbage), raw(LO, STOP), raw(DONE)]
    assert error is None


async def test_the_exchange_of_a_stream_is_recorded_completely() -> None:
    """A stream's exchange contains usage, hash, finish reason, attempts and the provider's request id."""
    scene = scene_of([ROLE, HEL], [LO, STOP], [USAGE, DONE])

    await received(scene)

    exchange = scene.exchange
    assert scene.journaled
    assert exchange.summary.usage == Usage(5, 2, 7)
    assert exchange.summary.completion_hash == HELLO_HASH
    assert exchange.summary.finish_reason == "stop"
    assert (exchange.attempts, exchange.provider_request_id) == (2, "req_stream")
    assert (exchange.status, exchange.error_code) == (200, None)
    assert exchange.is_complete
    assert exchange.is_streaming


@pytest.mark.parametrize(("include_usage", "hidden"), [(None, True), (False, True), (True, False)])
async def test_the_usage_event_is_hidden_unless_the_client_requested_it(
    *, include_usage: bool | None, hidden: bool
) -> None:
    """The final usage chunk reaches only a client that requested it. It is always recorded."""
    scene = scene_of([HEL, STOP], [USAGE], [DONE], include_usage=include_usage)

    chunks, _ = await received(scene)

    assert b"".join(chunks) == (raw(HEL, STOP, DONE) if hidden else raw(HEL, STOP, USAGE, DONE))
    assert b"" not in chunks
    assert scene.exchange.summary.usage.total_tokens == 7


async def test_no_usage_event_is_hidden_if_usage_was_not_requested() -> None:
    """With the option off, a usage chunk is the provider's own and is forwarded."""
    scene = scene_of([HEL, STOP, USAGE, DONE])
    scene.provider.dialect = Dialect(asks_for_usage=False)

    chunks, _ = await received(scene)

    assert chunks == [raw(HEL, STOP, USAGE, DONE)]


async def test_a_lenient_end_is_accepted_only_from_a_provider_of_that_dialect() -> None:
    """A stream of text that just ends is a failure of any other provider."""
    scene = scene_of([ROLE, HEL], [LO])
    scene.provider.dialect = Dialect(has_lenient_end=True)

    assert await received(scene) == ([raw(ROLE, HEL), raw(LO)], None)
    assert (scene.exchange.is_complete, scene.exchange.summary.completion_hash) == (True, HELLO_HASH)

    strict = scene_of([ROLE, HEL], [LO])
    _, error = await received(strict)
    assert isinstance(error, ProviderUnavailableError)
    assert not strict.exchange.is_complete


async def test_an_event_of_type_error_is_recorded_as_a_failure() -> None:
    """The client gets it unchanged, and no second error."""
    failed = StreamEvent(b"event: error\ndata: overloaded\n\n", b"overloaded", b"error")
    scene = scene_of([HEL], [failed], [DONE])

    assert await received(scene) == ([raw(HEL), failed.raw, raw(DONE)], None)
    assert (scene.exchange.status, scene.exchange.is_complete) == (503, False)


async def test_an_event_with_usage_and_a_choice_is_never_hidden() -> None:
    """Servers that put usage into the last chunk of text lose no text."""
    both = event(b'{"choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"stop"}],"usage":{"total_tokens":3}}')
    scene = scene_of([both, DONE])

    chunks, _ = await received(scene)

    assert chunks == [raw(both, DONE)]
    assert scene.exchange.summary.usage.total_tokens == 3


async def test_done_is_sent_after_the_exchange_is_in_the_journal() -> None:
    """The exchange is not recorded yet when the client gets the chunk before [DONE]."""
    scene = scene_of([HEL, STOP], [DONE])
    stream = await started(scene)

    assert await anext(stream) == raw(HEL, STOP)
    assert not scene.journal.kept
    assert await anext(stream) == raw(DONE)
    assert len(scene.journal.kept) == 1
    await stream.aclose()


async def test_nothing_is_forwarded_after_done() -> None:
    """Events after [DONE], in the same read or a later one, are neither sent nor read."""
    scene = scene_of([HEL, STOP, DONE, LATE], [LATE])

    chunks, error = await received(scene)

    assert chunks == [raw(HEL, STOP, DONE)]
    assert error is None
    upstream = scene.provider.answer
    assert isinstance(upstream, ScriptedStream)
    assert (upstream.given, upstream.closed) == (1, 1)


async def test_a_clean_end_after_a_finish_reason_is_complete() -> None:
    """A server that never sends [DONE] has completed the response nevertheless (ADR 0006)."""
    scene = scene_of([HEL, LO], [STOP])

    chunks, error = await received(scene)

    assert (chunks, error) == ([raw(HEL, LO), raw(STOP)], None)
    assert scene.exchange.is_complete
    assert scene.exchange.summary.completion_hash == HELLO_HASH


@pytest.mark.parametrize("reads", [([HEL, LO],), ([COMMENT],), ()])
async def test_an_end_without_a_finish_reason_is_a_failure(reads: tuple[Sequence[StreamEvent], ...]) -> None:
    """The client gets the received events, then the error. Attempts and request id of the headers are recorded."""
    scene = scene_of(*reads)

    chunks, error = await received(scene)

    assert chunks == [raw(*read) for read in reads]
    assert isinstance(error, ProviderUnavailableError)
    assert not scene.exchange.is_complete
    assert scene.exchange.error_code is ErrorCode.PROVIDER_UNAVAILABLE
    assert (scene.exchange.attempts, scene.exchange.provider_request_id) == (2, "req_stream")


@pytest.mark.parametrize("failure", [ProviderUnavailableError(), ProviderTimeoutError()])
async def test_a_broken_stream_delivers_its_events_before_the_error(failure: IbexError) -> None:
    """The received text is delivered and hashed. Then the error is raised, once, after the exchange is recorded."""
    scene = scene_of([HEL, LO], failure)
    stream = await started(scene)

    assert await anext(stream) == raw(HEL, LO)
    with pytest.raises(type(failure)) as raised:
        await anext(stream)
    assert raised.value is failure
    assert len(scene.journal.kept) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()

    assert scene.exchange.error_code is failure.code
    assert scene.exchange.summary.completion_hash == HELLO_HASH
    assert (scene.exchange.attempts, scene.exchange.provider_request_id) == (2, "req_stream")


@pytest.mark.parametrize("ending", [[DONE], [], ProviderUnavailableError()])
async def test_an_error_event_is_forwarded_and_recorded_as_a_failure(
    ending: Sequence[StreamEvent] | Exception,
) -> None:
    """The client gets only the provider's own error event, however the stream ends after it."""
    scene = scene_of([HEL, STOP], [ERROR], ending)

    chunks, error = await received(scene)

    assert b"".join(chunks).startswith(raw(HEL, STOP, ERROR))
    assert error is None
    assert not scene.exchange.is_complete
    assert scene.exchange.error_code is ErrorCode.PROVIDER_UNAVAILABLE


async def test_a_broken_connection_after_a_finish_reason_is_a_failure() -> None:
    """The response is not complete."""
    scene = scene_of([HEL, STOP], ProviderUnavailableError())

    _, error = await received(scene)

    assert isinstance(error, ProviderUnavailableError)
    assert not scene.exchange.is_complete


async def test_an_unexpected_exception_of_the_adapter_is_raised_and_recorded_as_an_internal_error() -> None:
    """The exception is raised unchanged."""
    scene = scene_of([HEL], RuntimeError("a bug"))
    stream = await started(scene)

    await anext(stream)
    with pytest.raises(RuntimeError, match="a bug"):
        await anext(stream)
    await stream.aclose()

    assert scene.exchange.error_code is ErrorCode.INTERNAL_ERROR


async def test_a_stream_that_the_client_closes_early_is_recorded() -> None:
    """Closing early stops the provider, and records the received events with status 499."""
    scene = scene_of([HEL, LO], [STOP], [DONE])
    stream = await started(scene)
    await anext(stream)

    await stream.aclose()

    upstream = scene.provider.answer
    assert isinstance(upstream, ScriptedStream)
    assert upstream.closed == 1
    assert scene.journaled
    assert (scene.exchange.status, scene.exchange.error_code) == (499, ErrorCode.CLIENT_CLOSED_REQUEST)
    assert scene.exchange.summary.completion_hash == HELLO_HASH
    assert not scene.exchange.is_complete


async def test_closing_a_stream_is_idempotent() -> None:
    """A second aclose() has no effect, and neither has further iteration."""
    scene = scene_of([HEL], [DONE])
    stream = await started(scene)

    await stream.aclose()
    await stream.aclose()

    upstream = scene.provider.answer
    assert isinstance(upstream, ScriptedStream)
    assert upstream.closed == 1
    assert len(scene.observer.exchanges) == 1
    assert [chunk async for chunk in stream] == []


async def test_an_exception_from_closing_upstream_does_not_prevent_the_recording() -> None:
    """The exception is reported, and the turn of the disconnected client is recorded."""
    scene = scene_of([HEL], [DONE])
    stream = await started(scene)
    upstream = scene.provider.answer
    assert isinstance(upstream, ScriptedStream)
    upstream.close_failure = RuntimeError("a bug")
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    await stream.aclose()

    assert scene.journaled
    assert [report["exception"] for report in reports] == [upstream.close_failure]


async def test_an_unavailable_journal_does_not_affect_the_stream() -> None:
    """The client gets the whole stream and [DONE]. Observers are notified that the exchange was not journaled."""
    scene = scene_of([HEL, STOP], [DONE])
    scene.journal.failure = DISK_FULL

    chunks, error = await received(scene)

    assert (chunks, error) == ([raw(HEL, STOP), raw(DONE)], None)
    assert not scene.journaled


async def test_draining_waits_for_a_stream_that_is_being_closed() -> None:
    """A shutdown that begins while an abandoned stream still closes upstream loses no part of it."""
    scene = scene_of([HEL], [DONE])
    stream = await started(scene)
    upstream = scene.provider.answer
    assert isinstance(upstream, ScriptedStream)
    upstream.pauses_in_closing = 9
    leaving = asyncio.create_task(stream.aclose())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])

    assert not upstream.closed
    await scene.recorder.drain()

    assert scene.journaled


async def test_the_first_and_the_last_byte_are_timed() -> None:
    """Time to first byte ends with the first read. Overhead excludes the whole time of the provider's stream."""
    scene = scene_of([HEL], [STOP, DONE])
    scene.provider.on_asked = partial(scene.clock.advance, timedelta(milliseconds=250))
    stream = await started(scene)
    await anext(stream)
    scene.clock.advance(timedelta(milliseconds=30))
    await anext(stream)
    scene.clock.advance(timedelta(milliseconds=999))
    await stream.aclose()

    timings = scene.exchange.timings
    assert (timings.provider_ttfb_ns, timings.total_ns, timings.overhead_ns) == (250_000_000, 280_000_000, 0)
