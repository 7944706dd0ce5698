"""A client is watched, answered within a bound, and its leaving ends the block and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from harness.http_scene import AsgiCall
from ibex.adapters.http.asgi import Answer
from ibex.adapters.http.client import Client, Limits
from ibex.domain.errors import ClientClosedRequestError, PayloadTooLargeError

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


async def test_a_comment_that_nobody_reads_ends_the_block() -> None:
    """A client that has stopped reading is found out while the provider is silent, too."""
    call = AsgiCall()
    async with client_of(call, Limits(keep_alive_s=0.005, client_stall_timeout_s=0.01)) as client:
        await client.begin_stream([])
        call.accept.clear()
        await asyncio.Event().wait()

    assert client.gone


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    """The error says whose fault it was, and leaves the block quietly."""
    call = AsgiCall()
    call.accept.clear()

    async with client_of(call, Limits(client_stall_timeout_s=0.01)) as client:
        with pytest.raises(ClientClosedRequestError):
            await client.answer(ANSWER)
        raise ClientClosedRequestError

    assert client.gone
