"""Reading an answer's body within its limits."""

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
    """Return a body of these chunks, with its limits counted from now."""
    fake = FakeBody(chunks)
    response = httpx.Response(200, headers={"content-encoding": coding} if coding else {}, stream=fake)
    now = asyncio.get_running_loop().time()
    return ResponseBody(HttpxResponse(response), TimeLimits(now + deadline_s, now + first_s, idle_s)), fake


async def test_it_gives_the_chunks_as_they_come() -> None:
    """Empty ones apart; then None, again and again."""
    body, _ = body_of(b"a", b"", b"bc")
    assert [await body.read() for _ in range(4)] == [b"a", b"bc", None, None]


async def test_the_whole_body_is_its_chunks_joined() -> None:
    """Up to the limit, which is in bytes."""
    body, _ = body_of(b"ab", b"cd")
    assert await body.read_all(4) == b"abcd"


async def test_a_body_over_the_limit_is_not_read_on() -> None:
    """It stops at the chunk that goes beyond."""
    body, fake = body_of(b"ab", b"cd", b"ef")
    with pytest.raises(UnreadableResponseError):
        await body.read_all(3)
    assert fake.given == 2


@pytest.mark.parametrize("coding", ["gzip", "GZIP", " x-gzip "])
async def test_gzip_is_undone(coding: str) -> None:
    """Byte by byte if it comes so."""
    data = gzip.compress(b"hello")
    body, _ = body_of(*(data[i : i + 1] for i in range(len(data))), coding=coding)
    assert body.is_readable
    assert await body.read_all(100) == b"hello"


async def test_gzip_that_ends_too_early_is_no_end() -> None:
    """What came is given, then the error."""
    body, _ = body_of(gzip.compress(b"hello")[:-3], coding="gzip")
    assert await body.read() == b"hello"
    with pytest.raises(UnreadableResponseError):
        await body.read()


@pytest.mark.parametrize(("coding", "readable"), [(None, True), ("identity", True), ("", True), ("br", False)])
async def test_other_codings_are_not_readable(coding: str | None, *, readable: bool) -> None:
    """They were not asked for and are not guessed at."""
    body, _ = body_of(b"x", coding=coding)
    assert body.is_readable is readable


async def test_the_first_byte_has_a_limit_of_its_own() -> None:
    """Silence before it is a timeout."""
    body, _ = body_of(HUSH, first_s=SHORT_S)
    with pytest.raises(TimeoutError):
        await body.read()


async def test_after_the_first_byte_only_silence_is_limited() -> None:
    """The limit of the first byte has gone by and does not matter any more."""
    body, _ = body_of(b"a", b"b", HUSH, first_s=SHORT_S, idle_s=SHORT_S)
    assert await body.read() == b"a"
    body.limits = TimeLimits(body.limits.deadline, 0, SHORT_S)
    assert await body.read() == b"b"
    with pytest.raises(TimeoutError):
        await body.read()


async def test_the_deadline_ends_a_body_that_never_falls_silent() -> None:
    """One byte after another, each in time, and yet too long."""
    body, fake = body_of(*[b"x"] * 1_000_000, deadline_s=SHORT_S)
    with pytest.raises(TimeoutError):
        await body.read_all(1_000_000)
    assert 0 < fake.given < 1_000_000


async def test_closing_twice_closes_once() -> None:
    """And never raises."""
    body, fake = body_of(b"a")
    await body.aclose()
    await body.aclose()
    assert fake.closed


async def test_a_failing_close_is_kept_quiet() -> None:
    """The connection is gone either way."""

    class Failing(FakeBody):
        async def aclose(self) -> None:
            raise httpx.CloseError("secret")

    body = ResponseBody(HttpxResponse(httpx.Response(200, stream=Failing(()))), TimeLimits(0, 0, 0))
    await body.aclose()


async def test_draining_reads_the_little_that_is_left() -> None:
    """So that the connection is at its end when it is given back."""
    body, fake = body_of(b"a", b"b", b"c")
    await body.read()
    await body.aclose(drain=True)
    assert (fake.ended, fake.closed) == (True, 1)


async def test_draining_is_bounded_in_bytes() -> None:
    """A provider that goes on and on is cut off."""
    body, fake = body_of(*[bytes(MAX_DRAIN_BYTES)] * 10)
    await body.aclose(drain=True)
    assert (fake.given, fake.closed) == (2, 1)


async def test_draining_is_bounded_in_time() -> None:
    """A provider that leaves its stream open after the end is cut off."""
    body, fake = body_of(b"a", HUSH)
    await body.aclose(drain=True)
    assert fake.closed


async def test_draining_a_broken_body_is_kept_quiet() -> None:
    """Nobody waits for these bytes."""
    body, fake = body_of(httpx.ReadError("reset"))
    await body.aclose(drain=True)
    assert fake.closed


@pytest.mark.parametrize("moment", list(Moment))
async def test_a_cancelled_close_closes(moment: Moment) -> None:
    """Whoever drains may be cancelled, again and again; the connection is closed all the same."""
    for cuts in ([Cut(1, moment)], [Cut(1, moment), Cut(2, moment)]):
        body, fake = body_of(b"a", HUSH)

        async def close(body: ResponseBody = body) -> None:
            await body.aclose(drain=True)

        run = await run_cut(close, *cuts)
        assert run.cuts_reached >= 1
        assert (run.complaints, run.tasks_left) == ([], [])
        assert fake.closed


async def test_a_distrusted_answer_has_its_connection_closed() -> None:
    """Where the transport shows it; elsewhere nothing happens."""
    network_stream = FakeNetworkStream()
    response = httpx.Response(200, stream=FakeBody(()), extensions={"network_stream": network_stream})
    await ResponseBody(HttpxResponse(response), TimeLimits(0, 0, 0)).discard_connection()
    assert network_stream.closed == 1
    body, _ = body_of()
    await body.discard_connection()
