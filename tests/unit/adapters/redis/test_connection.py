"""Several batches of commands on one redis-py connection, which is scripted here."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ibex.adapters.redis.connection import LinkError, ServerConnection, refusal_of

CANARY = "canary"


class ScriptedConnection:
    """A redis-py connection that answers what a test puts in, and records what is sent."""

    def __init__(self) -> None:
        self.is_connected = False
        self.written: list[bytes] = []
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.fails: Exception | None = None

    async def connect(self) -> None:
        """Connect, or fail."""
        if self.fails is not None:
            raise self.fails
        self.is_connected = True

    async def send_packed_command(self, packed: bytes, *, check_health: bool) -> None:
        """Record it."""
        assert not check_health
        self.written.append(packed)

    async def read_response(self) -> Any:
        """Return the next reply, or raise it."""
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, *, nowait: bool) -> None:
        """Disconnect; who reads is told."""
        assert nowait
        self.is_connected = False
        for _ in range(3):
            self.replies.put_nowait(RedisConnectionError("closed"))


async def connected() -> tuple[ServerConnection, ScriptedConnection]:
    """Return a connection that is made, to nowhere."""
    scripted = ScriptedConnection()
    connection = ServerConnection(cast("Any", scripted))
    await connection.open()
    return connection, scripted


async def called(connection: ServerConnection, *commands: tuple[Any, ...]) -> asyncio.Task[list[Any]]:
    """Send commands and return who waits for the replies."""
    calling = asyncio.create_task(connection.call(commands))
    await asyncio.sleep(0)
    return calling


async def test_replies_go_to_who_asked_in_order() -> None:
    """Each batch is one write, sent before the earlier one is answered."""
    connection, scripted = await connected()
    first = await called(connection, ("GET", "a"), ("EVALSHA", "x", 0))
    second = await called(connection, ("PING",))
    assert [written.count(b"*") for written in scripted.written] == [2, 1]

    for reply in (b"A", [7], b"PONG"):
        scripted.replies.put_nowait(reply)

    assert await first == [b"A", [7]]
    assert await second == [b"PONG"]
    assert connection.is_good


async def test_a_refusal_stands_in_its_place() -> None:
    """The other replies count, and it is told by its code alone: the rest may quote what was sent."""
    connection, scripted = await connected()
    calling = await called(connection, ("GET", "a"), ("GET", "b"), ("GET", "c"))
    for reply in (b"A", NoPermissionError(CANARY, status_code="NOPERM"), ResponseError(f"ODD {CANARY}")):
        scripted.replies.put_nowait(reply)

    found, denied, odd = await calling

    assert found == b"A"
    assert [refusal_of(denied), refusal_of(odd)] == ["refused (NOPERM)", "refused (ODD)"]
    assert connection.is_good


async def test_a_connection_that_breaks_fails_all_who_wait() -> None:
    """And is never good again."""
    connection, scripted = await connected()
    waiting = [await called(connection, ("PING",)) for _ in range(3)]
    scripted.replies.put_nowait(RedisConnectionError("lost"))

    for calling in waiting:
        with pytest.raises(LinkError, match="broke"):
            await calling
    assert not connection.is_good
    with pytest.raises(LinkError):
        await connection.call([("PING",)])


async def test_who_no_longer_waits_ends_the_connection() -> None:
    """Its reply would be taken for another's, also where it waited for its turn."""
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
async def test_connecting_fails_with_a_reason_that_says_no_secret(error: Exception, reason: str) -> None:
    """Whatever a credential provider raises."""
    scripted = ScriptedConnection()
    scripted.fails = error
    with pytest.raises(LinkError) as raised:
        await ServerConnection(cast("Any", scripted)).open()

    assert str(raised.value) == reason
