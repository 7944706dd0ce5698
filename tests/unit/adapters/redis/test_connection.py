"""Tests of several batches of commands on one scripted redis-py connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ibex.adapters.redis.connection import LinkError, ServerConnection, refusal_of

CANARY = "canary"


class ScriptedConnection:
    """A redis-py connection that returns the replies of a test, and records what is sent."""

    def __init__(self) -> None:
        self.is_connected = False
        self.written: list[bytes] = []
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.fails: Exception | None = None

    async def connect(self) -> None:
        """Connect, or raise the error of the test."""
        if self.fails is not None:
            raise self.fails
        self.is_connected = True

    async def send_packed_command(self, packed: bytes, *, check_health: bool) -> None:
        """Record the bytes."""
        assert not check_health
        self.written.append(packed)

    async def read_response(self) -> Any:
        """Return the next reply, or raise it."""
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, *, nowait: bool) -> None:
        """Disconnect. A pending read fails."""
        assert nowait
        self.is_connected = False
        for _ in range(3):
            self.replies.put_nowait(RedisConnectionError("closed"))


async def connected() -> tuple[ServerConnection, ScriptedConnection]:
    """Return an open connection without a server."""
    scripted = ScriptedConnection()
    connection = ServerConnection(cast("Any", scripted))
    await connection.open()
    return connection, scripted


async def called(connection: ServerConnection, *commands: tuple[Any, ...]) -> asyncio.Task[list[Any]]:
    """Send commands and return the task that waits for the replies."""
    calling = asyncio.create_task(connection.call(commands))
    await asyncio.sleep(0)
    return calling


async def test_replies_go_to_their_callers_in_order() -> None:
    """Each batch is one write, and is sent before the reply to the previous batch arrives."""
    connection, scripted = await connected()
    first = await called(connection, ("GET", "a"), ("EVALSHA", "x", 0))
    second = await called(connection, ("PING",))
    assert [written.count(b"*") for written in scripted.written] == [2, 1]

    for reply in (b"A", [7], b"PONG"):
        scripted.replies.put_nowait(reply)

    assert await first == [b"A", [7]]
    assert await second == [b"PONG"]
    assert connection.is_good


async def test_an_error_reply_is_returned_in_order() -> None:
    """The other replies stay valid. The reason is the error's code only, because the rest may quote values."""
    connection, scripted = await connected()
    calling = await called(connection, ("GET", "a"), ("GET", "b"), ("GET", "c"))
    for reply in (b"A", NoPermissionError(CANARY, status_code="NOPERM"), ResponseError(f"ODD {CANARY}")):
        scripted.replies.put_nowait(reply)

    found, denied, odd = await calling

    assert found == b"A"
    assert [refusal_of(denied), refusal_of(odd)] == ["refused (NOPERM)", "refused (ODD)"]
    assert connection.is_good


async def test_a_broken_connection_fails_all_pending_calls() -> None:
    """The connection cannot be used again."""
    connection, scripted = await connected()
    waiting = [await called(connection, ("PING",)) for _ in range(3)]
    scripted.replies.put_nowait(RedisConnectionError("lost"))

    for calling in waiting:
        with pytest.raises(LinkError, match="broke"):
            await calling
    assert not connection.is_good
    with pytest.raises(LinkError):
        await connection.call([("PING",)])


async def test_a_cancelled_call_closes_the_connection() -> None:
    """A later command would receive its reply. This also applies to a call that waits for its turn to read."""
    for left in (0, 1):
        connection, _ = await connected()
        waiting = [await called(connection, ("PING",)) for _ in range(2)]
        waiting[left].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)

        assert isinstance(done[left], asyncio.CancelledError)
        assert isinstance(done[1 - left], LinkError)
        assert not connection.is_good


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AuthenticationError(CANARY, status_code="WRONGPASS"), "refused (WRONGPASS)"),
        (RuntimeError(CANARY), "the connection broke (RuntimeError)"),
    ],
)
async def test_the_reason_of_a_failed_connection_contains_no_secret(error: Exception, reason: str) -> None:
    """Errors of a credential provider are included."""
    scripted = ScriptedConnection()
    scripted.fails = error
    with pytest.raises(LinkError) as raised:
        await ServerConnection(cast("Any", scripted)).open()

    assert str(raised.value) == reason
