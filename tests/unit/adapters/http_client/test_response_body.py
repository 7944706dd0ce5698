"""Tests of reading the body of a response within time limits."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.cancellation import Cut, Moment, run_cut
from harness.upstream import HUSH, FakeBody, FakeNetworkStream
from ibex.adapters.http_client.failures import UnreadableResponseError
from ibex.adapters.http_client.response_body import MAX_DRAIN_BYTES, ResponseBody, TimeLimits
from ibex.adapters.http_client.upstream import HttpxResponse

if TYPE_CHECKING:
    from harness.upstream import Chunk

SHORT_S = 0.02
LONG_S = 30.0


def body_of(
    *chunks: Chunk,
    coding: str | None = None,
    deadline_s: float = LONG_S,
    first_s: float = LONG_S,
    idle_s: float = LONG_S,
) -> tuple[ResponseBody, FakeBody]:
    """Return a body of these chunks, with limits relative to now."""
    fake = FakeBody(chunks)
    response = httpx.Response(200, headers={"content-encoding": coding} if coding else {}, stream=fake)
    now = asyncio.get_running_loop().time()
    return ResponseBody(HttpxResponse(response), TimeLimits(now + deadline_s, now + first_s, idle_s)), fake


async def test_a_body_returns_its_chunks_as_they_arrive() -> None:
    """Empty chunks are skipped. After the end, each read returns None."""
    body, _ = body_of(b"a", b"", b"bc")
    assert [await body.read() for _ in range(4)] == [b"a", b"bc", None, None]


async def test_the_whole_body_is_its_chunks_joined() -> None:
    """A body of exactly the limit is allowed."""
    body, _ = body_of(b"ab", b"cd")
    assert await body.read_all(4) == b"abcd"


async def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    """Reading stops at the chunk that exceeds the limit."""
    body, fake = body_of(b"ab", b"cd", b"ef")
    with pytest.raises(UnreadableResponseError):
        await body.read_all(3)
    assert fake.given == 2


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " x-gzip "])
async def test_gzip_is_decompressed(coding: str) -> None:
    """The data may arrive byte by byte."""
    data = gzip.compress(b"hello")
    body, _ = body_of(*(data[i : i + 1] for i in range(len(data))), coding=coding)
    assert body.is_readable
    assert await body.read_all(100) == b"hello"


async def test_truncated_gzip_is_an_error() -> None:
    """The reader gets the data that arrived, then the error."""
    body, _ = body_of(gzip.compress(b"hello")[:-3], coding="gzip")
    assert await body.read() == b"hello"
    with pytest.raises(UnreadableResponseError):
        await body.read()


@pytest.mark.parametrize(("coding", "readable"), [(None, True), ("identity", True), ("", True), ("br", False)])
async def test_other_codings_are_not_readable(coding: str | None, *, readable: bool) -> None:
    """The request did not ask for them, and the body is not decoded."""
    body, _ = body_of(b"x", coding=coding)
    assert body.is_readable is readable


async def test_the_first_byte_has_a_limit_of_its_own() -> None:
    """Silence before the first byte is a timeout."""
    body, _ = body_of(HUSH, first_s=SHORT_S)
    with pytest.raises(TimeoutError):
        await body.read()


async def test_after_the_first_byte_the_idle_limit_applies() -> None:
    """The limit of the first byte no longer applies."""
    body, _ = body_of(b"a", b"b", HUSH, first_s=SHORT_S, idle_s=SHORT_S)
    assert await body.read() == b"a"
    body.limits = TimeLimits(body.limits.deadline, 0, SHORT_S)
    assert await body.read() == b"b"
    with pytest.raises(TimeoutError):
        await body.read()


async def test_the_deadline_ends_a_body_that_is_never_idle() -> None:
    """Each byte arrives in time, but the body takes too long."""
    body, fake = body_of(*[b"x"] * 1_000_000, deadline_s=SHORT_S)
    with pytest.raises(TimeoutError):
        await body.read_all(1_000_000)
    assert 0 < fake.given < 1_000_000


async def test_closing_twice_closes_once() -> None:
    """Closing never raises an error."""
    body, fake = body_of(b"a")
    await body.aclose()
    await body.aclose()
    assert fake.closed


async def test_an_error_at_close_is_suppressed() -> None:
    """The connection is closed either way."""

    class Failing(FakeBody):
        async def aclose(self) -> None:
            raise httpx.CloseError("secret")

    body = ResponseBody(HttpxResponse(httpx.Response(200, stream=Failing(()))), TimeLimits(0, 0, 0))
    await body.aclose()


async def test_draining_reads_the_rest_of_the_body() -> None:
    """The connection can be reused only after the end of the body."""
    body, fake = body_of(b"a", b"b", b"c")
    await body.read()
    await body.aclose(drain=True)
    assert (fake.ended, fake.closed) == (True, 1)


async def test_draining_is_bounded_in_bytes() -> None:
    """The connection to a provider that keeps sending is closed."""
    body, fake = body_of(*[bytes(MAX_DRAIN_BYTES)] * 10)
    await body.aclose(drain=True)
    assert (fake.given, fake.closed) == (2, 1)


async def test_draining_is_bounded_in_time() -> None:
    """The connection to a provider that does not end its stream is closed."""
    body, fake = body_of(b"a", HUSH)
    await body.aclose(drain=True)
    assert fake.closed


async def test_an_error_while_draining_is_suppressed() -> None:
    """No reader needs these bytes."""
    body, fake = body_of(httpx.ReadError("reset"))
    await body.aclose(drain=True)
    assert fake.closed


@pytest.mark.parametrize("moment", list(Moment))
async def test_a_cancelled_close_closes_the_connection(moment: Moment) -> None:
    """This also holds if draining is cancelled repeatedly."""
    for cuts in ([Cut(1, moment)], [Cut(1, moment), Cut(2, moment)]):
        body, fake = body_of(b"a", HUSH)

        async def close(body: ResponseBody = body) -> None:
            await body.aclose(drain=True)

        run = await run_cut(close, *cuts)
        assert run.cuts_reached >= 1
        assert (run.complaints, run.tasks_left) == ([], [])
        assert fake.closed


async def test_discarding_closes_the_connection() -> None:
    """If the transport hides the connection, discarding does nothing."""
    network_stream = FakeNetworkStream()
    response = httpx.Response(200, stream=FakeBody(()), extensions={"network_stream": network_stream})
    await ResponseBody(HttpxResponse(response), TimeLimits(0, 0, 0)).discard_connection()
    assert network_stream.closed == 1
    body, _ = body_of()
    await body.discard_connection()
