"""A client is watched, answered within a bound, and its leaving ends the block and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.http_scene import AsgiCall
from ibex.adapters.http.asgi import Answer
from ibex.adapters.http.client import CUT, WATCH, Client, Limits
from ibex.domain.errors import ClientClosedRequestError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.http.asgi import Message

ANSWER = Answer(200, b"text/plain", b"abc", [])


def client_of(call: AsgiCall, limits: Limits | None = None) -> Client:
    """Return the client of a call."""
    return Client({}, call.receive, call.send, limits or Limits())


async def until_gone(client: Client) -> None:
    """Return once the client has left and the block was cancelled for it."""
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert client.gone


async def test_a_block_of_a_client_that_leaves_is_cancelled_quietly() -> None:
    """The wait in it ends, what is after the block goes on, and the task is not left cancelled."""
    call = AsgiCall()
    cancelled = False

    async with client_of(call) as client:
        await client.read_body(None)
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


async def test_a_server_that_tells_who_leaves_needs_no_task_that_waits_for_it() -> None:
    """It is asked to tell from the end of the body on; what it tells after the answer changes nothing."""
    told: list[Callable[[], None]] = []
    call = AsgiCall()
    before = asyncio.all_tasks()
    async with Client({"extensions": {WATCH: told.append}}, call.receive, call.send, Limits()) as client:
        assert not told
        await client.read_body(None)
        assert asyncio.all_tasks() == before
        told[0]()
        await until_gone(client)

    async with Client({"extensions": {WATCH: told.append}}, call.receive, call.send, Limits()) as client:
        await client.answer(ANSWER)
        told[0]()
    assert not client.gone


async def test_a_client_that_has_its_answer_may_leave() -> None:
    """To the server an answered request is over, and that is no leaving."""
    call = AsgiCall()

    async with client_of(call) as client:
        await client.read_body(None)
        await client.answer(ANSWER)
        for _ in range(9):
            await asyncio.sleep(0)

    assert call.response().body == b"abc"
    assert not client.gone


async def test_a_cancellation_from_elsewhere_goes_through() -> None:
    """Only the client's own leaving is swallowed."""
    inside = asyncio.Event()

    async def block() -> None:
        async with client_of(AsgiCall()) as client:
            await client.read_body(None)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_elsewhere_counts_more_than_leaving() -> None:
    """Both at once: the task that was to end ends."""
    call = AsgiCall()
    inside = asyncio.Event()

    async def block() -> None:
        async with client_of(call) as client:
            await client.read_body(None)
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


async def test_other_exceptions_leave_the_block() -> None:
    """A bug is no client's leaving."""

    async def block() -> None:
        async with client_of(AsgiCall()) as client:
            await client.read_body(None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await block()


async def test_no_companion_outlives_the_block() -> None:
    """Neither who watches nor who fills silences."""
    before = asyncio.all_tasks()
    async with client_of(AsgiCall()) as client:
        await client.read_body(None)
        await client.begin_stream([])
        assert len(asyncio.all_tasks() - before) >= 2
        await client.end_stream()

    assert not {t for t in asyncio.all_tasks() - before if not t.done()}


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    """By declaration or by count."""
    limits = Limits(max_request_body_bytes=3)
    async with client_of(AsgiCall((b"a", b"bc")), limits) as client:
        assert await client.read_body(3) == b"abc"
    async with client_of(AsgiCall((b"abc", b"d")), limits) as client:
        with pytest.raises(PayloadTooLargeError):
            await client.read_body(None)
    async with client_of(AsgiCall((b"abc",)), limits) as client:
        with pytest.raises(PayloadTooLargeError):
            await client.read_body(4)


async def test_a_body_in_one_part_is_not_copied() -> None:
    """Ten megabytes are ten megabytes."""
    body = bytes(1000)
    async with client_of(AsgiCall((body,))) as client:
        assert await client.read_body(1000) is body


async def test_a_silence_is_not_filled_while_something_waits_to_be_read() -> None:
    """A comment never comes between a chunk and the client's reading of it, and a client that reads again gets both."""
    call = AsgiCall()
    async with client_of(call, Limits(keep_alive_s=0.005)) as client:
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
async def test_the_last_event_of_a_stream_is_one_of_its_own(before: bytes) -> None:
    """After half an event it begins anew; after a whole one nothing comes between."""
    for half in (b"", b"data: half", b": half\n"):
        call = AsgiCall()
        async with client_of(call) as client:
            await client.begin_stream([])
            for chunk in filter(None, (before, half)):
                await client.send_chunk(chunk)
            await client.end_stream(b"data: last\n\n")
        between = b"\n\n" if half else b""
        assert call.response().body == before + half + between + b"data: last\n\n"


async def test_half_an_event_is_not_broken_by_a_comment() -> None:
    """The silence goes on until the rest of it is there."""
    call = AsgiCall()
    async with client_of(call, Limits(keep_alive_s=0.001)) as client:
        await client.begin_stream([])
        await client.send_chunk(b"data: ha")
        await asyncio.sleep(0.02)  # many silences
        await client.send_chunk(b"lf\n\n")
        await client.end_stream()
    assert call.response().body.replace(b": keep-alive\n\n", b"") == b"data: half\n\n"
    assert b"ha: keep" not in call.response().body


async def test_a_body_that_stands_still() -> None:
    """The client is cut off: nobody knows whether it is still there."""
    call = AsgiCall((b"a",), ends=False)
    cut: list[str] = []
    scope = {"extensions": {CUT: lambda: cut.append("cut")}}
    async with Client(scope, call.receive, call.send, Limits(body_silence_s=0.01)) as client:
        with pytest.raises(ClientClosedRequestError):
            await client.read_body(None)
    assert client.gone
    assert cut == ["cut"]


async def test_a_body_that_only_trickles() -> None:
    """A byte now and then does not keep a place for ever: it should have come at a KiB a second."""
    clock = asyncio.get_running_loop()
    began = clock.time()

    async def trickle() -> Message:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async with Client({}, trickle, AsgiCall().send, Limits(body_silence_s=0.05)) as client:
        with pytest.raises(ClientClosedRequestError):
            await client.read_body(None)
    assert client.gone
    assert clock.time() - began >= 0.05
