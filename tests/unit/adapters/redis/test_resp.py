"""URLs of Redis, and one connection's commands and replies, without a socket."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ibex.adapters.redis.resp import Address, RedisError, RespConnection

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-password"


class RecordingTransport(asyncio.Transport):
    """Takes what is written, and remembers whether it was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: Any) -> None:
        """Remember it."""
        self.written += data

    def abort(self) -> None:
        """Remember that."""
        self.aborted = True


def connected() -> tuple[RespConnection, RecordingTransport]:
    """Return a connection that is made, to nowhere."""
    connection, transport = RespConnection(), RecordingTransport()
    connection.connection_made(transport)
    return connection, transport


async def called(connection: RespConnection, *commands: tuple[Any, ...]) -> asyncio.Task[list[Any]]:
    """Send commands and return who waits for the replies."""
    calling = asyncio.create_task(connection.call(commands))
    await asyncio.sleep(0)
    return calling


def test_a_url_says_where_and_as_whom() -> None:
    """With its escapes undone; what it leaves out is Redis' default."""
    full = Address.parse("redis://kim:p%40ss@cache.example:6380/3")
    bare = Address.parse("redis://")
    path = Address.parse("unix:///run/redis.sock?db=2")

    assert (full.host, full.port, full.database) == ("cache.example", 6380, 3)
    assert (full.username, full.password, full.tls) == ("kim", "p@ss", None)
    assert (bare.host, bare.port, bare.database, bare.username, bare.password) == ("localhost", 6379, 0, None, None)
    assert (path.path, path.database) == ("/run/redis.sock", 2)


def test_an_address_shows_no_password() -> None:
    """Wherever it is printed."""
    assert CANARY not in repr(Address.parse(f"redis://kim:{CANARY}@localhost"))


def test_tls_verifies_unless_it_is_told_not_to(tmp_path: Path) -> None:
    """By the system's authorities, and by one of the operator's own."""
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))

    default = Address.parse("rediss://localhost").tls
    own = Address.parse(f"rediss://localhost?ssl_ca_certs={authority}").tls
    none = Address.parse("rediss://localhost?ssl_cert_reqs=none").tls

    assert default is not None
    assert (default.verify_mode, default.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert own is not None
    assert own.check_hostname
    assert len(own.get_ca_certs()) == len(default.get_ca_certs()) + 1
    assert none is not None
    assert (none.verify_mode, none.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost?db=first",
        "redis://localhost?socket_timeout=3",
        "redis://localhost?ssl_ca_certs=ca.pem",
        "rediss://localhost?ssl_ca_cert=misspelt",
        "rediss://localhost?ssl_cert_reqs=sometimes",
        "rediss://localhost?ssl_ca_certs=no-such-file.pem",
    ],
)
def test_what_a_url_asks_for_is_done_or_refused(url: str) -> None:
    """An option that is not heeded, of TLS above all, would be taken for one that is."""
    with pytest.raises(ValueError, match=r"(?i)redis|db") as raised:
        Address.parse(url.replace("://", f"://kim:{CANARY}@"))

    assert CANARY not in str(raised.value)


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
async def test_replies_go_to_who_asked_in_order(size: int) -> None:
    """However they are cut on their way."""
    connection, transport = connected()
    first = await called(connection, ("GET", "a"), ("EVALSHA", "x", 0))
    second = await called(connection, ("PING",))
    replies = b"$1\r\nA\r\n*2\r\n:7\r\n$2\r\nhi\r\n+PONG\r\n"

    for start in range(0, len(replies), size):
        connection.data_received(replies[start : start + size])

    assert await first == [b"A", [7, b"hi"]]
    assert await second == [b"PONG"]
    assert transport.written.startswith(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n")
    assert connection.is_good


async def test_a_refusal_is_named_by_its_first_word() -> None:
    """The rest may quote what was sent. The other replies of that call count for nothing; the next call's do."""
    connection, _ = connected()
    refused = await called(connection, ("GET", "a"), ("AUTH", CANARY))
    answered = await called(connection, ("PING",))

    connection.data_received(f"$1\r\nA\r\n-WRONGPASS for {CANARY}\r\n+PONG\r\n".encode())

    with pytest.raises(RedisError, match=r"^refused \(WRONGPASS\)$"):
        await refused
    assert await answered == [b"PONG"]


@pytest.mark.parametrize("junk", [b"HTTP/1.1 400 Bad Request\r\n", b"+a reply that nobody asked for\r\n"])
async def test_what_is_no_reply_ends_the_connection(junk: bytes) -> None:
    """Nothing after it can be told whose it is."""
    connection, transport = connected()
    asked = await called(connection, ("PING",))
    connection.data_received(b"+PONG\r\n")
    connection.data_received(junk)

    assert await asked == [b"PONG"]
    assert not connection.is_good
    assert transport.aborted
    with pytest.raises(RedisError):
        await connection.call([("PING",)])


async def test_a_connection_that_is_lost_fails_all_who_wait() -> None:
    """At once, each of them."""
    connection, _ = connected()
    waiting = [await called(connection, ("PING",)) for _ in range(3)]

    connection.connection_lost(ConnectionResetError())

    for calling in waiting:
        with pytest.raises(RedisError, match="ConnectionResetError"):
            await calling
    assert not connection.is_good


async def test_who_is_late_ends_the_connection() -> None:
    """Its reply would be taken for another's."""
    connection, transport = connected()

    with pytest.raises(RedisError, match="timeout"):
        await connection.call([("PING",)], 0.0)

    assert transport.aborted
    assert not connection.is_good


async def test_who_no_longer_waits_is_passed_by() -> None:
    """The reply is taken from the wire all the same: the next one is the next caller's."""
    connection, _ = connected()
    gone = await called(connection, ("GET", "a"))
    stays = await called(connection, ("GET", "b"))
    gone.cancel()
    await asyncio.sleep(0)

    connection.data_received(b"$1\r\nA\r\n$1\r\nB\r\n")

    assert await stays == [b"B"]
    assert connection.is_good


async def test_asking_nothing_waits_for_nothing() -> None:
    """Nothing is sent either."""
    connection, transport = connected()

    assert await connection.call([]) == []
    assert not transport.written
