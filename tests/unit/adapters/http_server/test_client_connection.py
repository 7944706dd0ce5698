"""Tests of the client connection: disconnects, time limits of the body, and the response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from openai._streaming import SSEDecoder

from harness.chat_scene import ORG
from harness.http_scene import AsgiCall
from ibex.adapters.http_server.asgi import Response
from ibex.adapters.http_server.client_connection import (
    KEEP_ALIVE,
    WATCH,
    WHOLE_BODY,
    AsgiClient,
    ClientConnection,
    Limits,
)
from ibex.domain.errors import OverloadedError, PayloadTooLargeError, RequestTimeoutError
from ibex.domain.proxying.capacity import Capacity, Reservation

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.http_server.asgi import Message

ANSWER = Response(200, b"text/plain", b"abc", [])


def connection_of(call: AsgiCall, limits: Limits | None = None) -> ClientConnection:
    """Return the client connection of a call."""
    return AsgiClient({}, call.receive, call.send, limits or Limits())


def reservation(capacity: Capacity | None = None) -> Reservation:
    """Return the reservation of a request that has a slot."""
    made = Reservation(capacity or Capacity(slots=10, body_bytes=1 << 30, max_authenticating=10))
    made.take_slot(ORG)
    return made


async def until_gone(client: ClientConnection) -> None:
    """Wait until the client has disconnected and the block is cancelled for it."""
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert client.gone


async def test_a_disconnect_cancels_the_block_silently() -> None:
    """The wait in it ends, the code after it runs, and the task is not left cancelled."""
    call = AsgiCall()
    cancelled = False

    async with connection_of(call) as client:
        await client.read_body(None, reservation())
        call.leave.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    assert cancelled
    assert client.gone
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_server_with_the_watch_extension_needs_no_task() -> None:
    """The callback is registered at the end of the body. A call after the response has no effect."""
    callbacks: list[Callable[[], None]] = []
    call = AsgiCall()
    before = asyncio.all_tasks()
    async with AsgiClient({"extensions": {WATCH: callbacks.append}}, call.receive, call.send, Limits()) as client:
        assert not callbacks
        await client.read_body(None, reservation())
        assert asyncio.all_tasks() == before
        callbacks[0]()
        await until_gone(client)

    async with AsgiClient({"extensions": {WATCH: callbacks.append}}, call.receive, call.send, Limits()) as client:
        await client.send_response(ANSWER)
        callbacks[0]()
    assert not client.gone


async def test_a_disconnect_after_the_response_is_ignored() -> None:
    """A server reports the end of a response like a disconnect."""
    call = AsgiCall()

    async with connection_of(call) as client:
        await client.read_body(None, reservation())
        await client.send_response(ANSWER)
        for _ in range(9):
            await asyncio.sleep(0)

    assert call.response().body == b"abc"
    assert not client.gone


async def test_another_cancellation_propagates() -> None:
    """Only the cancellation for a disconnect is suppressed."""
    inside = asyncio.Event()

    async def block() -> None:
        async with connection_of(AsgiCall()) as client:
            await client.read_body(None, reservation())
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_cancellation_takes_precedence_over_a_disconnect() -> None:
    """If both happen at once, the task ends."""
    call = AsgiCall()
    inside = asyncio.Event()

    async def block() -> None:
        async with connection_of(call) as client:
            await client.read_body(None, reservation())
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                await until_gone(client)

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()
    call.leave.set()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_exceptions_propagate() -> None:
    """A bug is not treated as a disconnect."""

    async def block() -> None:
        async with connection_of(AsgiCall()) as client:
            await client.read_body(None, reservation())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await block()


async def test_no_background_task_outlives_the_block() -> None:
    """This applies to the task that watches the client and to one that sends a comment."""
    before = asyncio.all_tasks()
    call = AsgiCall()
    async with connection_of(call, Limits(keep_alive_s=0.001)) as client:
        await client.read_body(None, reservation())
        await client.begin_stream([])
        assert asyncio.all_tasks() - before
        await call.until_sent(2)
        assert call.response().body == KEEP_ALIVE
        await client.end_stream()

    assert not {t for t in asyncio.all_tasks() - before if not t.done()}


async def test_a_stream_has_no_task_for_its_silences() -> None:
    """A timer waits for the silence, so that a thousand silent streams cost no task each."""
    call = AsgiCall()
    before = asyncio.all_tasks()
    async with AsgiClient({"extensions": {WATCH: lambda _: None}}, call.receive, call.send, Limits()) as client:
        await client.begin_stream([])
        await client.send_chunk(b"data: 1\n\n")
        assert asyncio.all_tasks() == before


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    """The size is declared or counted."""
    limits = Limits(max_request_body_bytes=3)
    async with connection_of(AsgiCall((b"a", b"bc")), limits) as client:
        assert await client.read_body(3, reservation()) == b"abc"
    async with connection_of(AsgiCall((b"abc", b"d")), limits) as client:
        with pytest.raises(PayloadTooLargeError):
            await client.read_body(None, reservation())
    async with connection_of(AsgiCall((b"abc",)), limits) as client:
        with pytest.raises(PayloadTooLargeError):
            await client.read_body(4, reservation())


async def test_a_body_in_one_part_is_not_copied() -> None:
    """The result is the same object."""
    body = bytes(1000)
    async with connection_of(AsgiCall((body,))) as client:
        assert await client.read_body(1000, reservation()) is body


async def test_a_silence_is_not_filled_during_a_pending_write() -> None:
    """No comment is sent before a chunk that the client has not read yet."""
    call = AsgiCall()
    async with connection_of(call, Limits(keep_alive_s=0.005)) as client:
        await client.begin_stream([])
        call.accept.clear()
        chunk = asyncio.create_task(client.send_chunk(b"data: 1\n\n"))
        await asyncio.wait([chunk], timeout=0.03)
        assert not chunk.done()
        call.accept.set()
        await chunk
        await client.end_stream()

    assert call.response().chunks[0] == b"data: 1\n\n"


@pytest.mark.parametrize("before", [b"", b"data: a\n\n", b"data: a\r\n\r\n", b"data: a\r\r"])
async def test_the_last_event_of_a_stream_is_a_separate_event(before: bytes) -> None:
    """A blank line separates it from an incomplete event, and only from an incomplete one."""
    for half in (b"", b"data: half", b": half\n"):
        call = AsgiCall()
        async with connection_of(call) as client:
            await client.begin_stream([])
            for chunk in filter(None, (before, half)):
                await client.send_chunk(chunk)
            await client.end_stream(b"data: last\n\n")
        between = b"\n\n" if half else b""
        assert call.response().body == before + half + between + b"data: last\n\n"


async def test_no_comment_is_sent_within_an_event() -> None:
    """The silence is filled only after the rest of the event."""
    call = AsgiCall()
    async with connection_of(call, Limits(keep_alive_s=0.001)) as client:
        await client.begin_stream([])
        await client.send_chunk(b"data: ha")
        await asyncio.sleep(0.02)  # many silences
        await client.send_chunk(b"lf\n\n")
        await client.end_stream()
    assert call.response().body.replace(b": keep-alive\n", b"") == b"data: half\n\n"
    assert b"ha: keep" not in call.response().body


async def test_a_comment_does_not_end_an_event() -> None:
    """Comments contain no blank line, after which openai-python reports an empty event if an earlier one had an id."""
    call = AsgiCall()
    async with connection_of(call, Limits(keep_alive_s=0.001)) as client:
        await client.begin_stream([])
        await client.send_chunk(b"id: 1\ndata: first\n\n")
        await call.until_sent(4)  # the head, the event and two comments
        await client.end_stream(b"data: last\n\n")

    body = call.response().body
    assert b": keep-alive\n: keep-alive\n" in body
    assert [event.data for event in SSEDecoder().iter_bytes(iter([body]))] == ["first", "last"]


async def test_a_stalled_body_times_out() -> None:
    """The client can still get a response."""
    call = AsgiCall((b"a",), ends=False)
    async with connection_of(call, Limits(body_silence_s=0.01)) as client:
        with pytest.raises(RequestTimeoutError):
            await client.read_body(None, reservation())
        assert not client.gone
        await client.send_response(ANSWER)
    assert call.response().body == b"abc"


@pytest.mark.parametrize(("declared", "least_s"), [(None, 0.05), (1_000, 0.15)])
async def test_a_slow_body_times_out(declared: int | None, least_s: float) -> None:
    """Single bytes do not keep a slot: the time limit depends on the declared size, else on the bytes so far."""
    clock = asyncio.get_running_loop()
    began = clock.time()
    limits = Limits(body_silence_s=5, body_s=0.05, body_bytes_per_s=10_000)

    async def trickle() -> Message:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async with AsgiClient({}, trickle, AsgiCall().send, limits) as client:
        with pytest.raises(RequestTimeoutError):
            await client.read_body(declared, reservation())
    assert clock.time() - began >= least_s


async def test_a_body_that_always_has_data_ready_times_out() -> None:
    """The time limit holds although the event loop never runs its timer."""
    limits = Limits(body_silence_s=0.01, body_s=0.01, body_bytes_per_s=1 << 40)

    async def trickle() -> Message:
        return {"type": "http.request", "body": b"a", "more_body": True}

    async with AsgiClient({}, trickle, AsgiCall().send, limits) as client:
        with pytest.raises(RequestTimeoutError):
            await client.read_body(None, reservation())


async def test_a_body_in_many_chunks_is_joined() -> None:
    """Small and large chunks keep their order."""
    parts = (b"a", b"", b"b" * 70_000, b"c" * 65_535, b"d", b"e", b"f" * 70_000)
    async with connection_of(AsgiCall(parts)) as client:
        assert await client.read_body(None, reservation()) == b"".join(parts)


async def test_a_declared_length_is_reserved_before_reading() -> None:
    """Without capacity the body is not read, and no reservation is left."""
    capacity = Capacity(slots=10, body_bytes=100, max_authenticating=10)
    for most, reads in ((75, 1), (76, 0)):
        held = reservation(capacity)
        other = reservation(capacity)
        other.reserve_body(10)
        call = AsgiCall((b"a",))
        async with connection_of(call) as client:
            if reads:
                await client.read_body(most - 10, held)
            else:
                with pytest.raises(OverloadedError):
                    await client.read_body(most - 10, held)
        assert capacity.body_bytes.in_use == (most if reads else 10)
        assert bool(call.given) is bool(reads)
        held.release()
        other.release()
    assert (capacity.body_bytes.in_use, capacity.slots.in_use) == (0, 0)


async def test_chunks_are_reserved_as_they_arrive() -> None:
    """The chunk that exceeds the capacity ends the reading."""
    capacity = Capacity(slots=10, body_bytes=100, max_authenticating=10)
    held = reservation(capacity)
    call = AsgiCall((b"a" * 40, b"b" * 35, b"c", b"d"))
    async with connection_of(call) as client:
        with pytest.raises(OverloadedError):
            await client.read_body(None, held)
    assert call.given == 3
    assert capacity.body_bytes.in_use == 75
    held.release()
    assert len(capacity.body_bytes) == 0


async def test_a_body_that_arrives_with_its_head_is_reserved() -> None:
    """It uses memory like any other body."""
    capacity = Capacity(slots=10, body_bytes=100, max_authenticating=10)
    call = AsgiCall()
    scope = {"extensions": {WHOLE_BODY: lambda: b"abc", WATCH: lambda _: None}}
    async with AsgiClient(scope, call.receive, call.send, Limits()) as client:
        held = reservation(capacity)
        assert await client.read_body(3, held) == b"abc"
        assert capacity.body_bytes.in_use == 3
        held.release()
