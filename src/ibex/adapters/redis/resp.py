"""One connection to Redis: commands out in batches, replies back in their order.

redis-py's connection costs more per command than all that is asked of Redis here; its URLs, and hiredis for the
protocol, are used as they are (ADR 0022).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.asyncio.connection import RedisSSLContext, SSLConnection, parse_url
from redis.exceptions import RedisError as RedisPyError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

_DEFAULT_PORT: Final = 6379
_TLS_OPTION: Final = "ssl_"
LATE_S: Final = 0.001
"""A loop that was busy sees its timers before what has come meanwhile; after so long it has seen that too."""


class RedisError(Exception):
    """Redis cannot be reached, does not answer in time, or refuses a command. The message holds no key and no value."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is and what it wants to hear first. The repr shows no password."""

    host: str
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    database: int
    username: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``redis://``, ``rediss://`` or ``unix://``, as redis-py understands them, with its options of TLS.

        Reads certificates from disk, once: it takes longer than a connection may. Raises ``ValueError`` for what is no
        such URL, has another option, or names certificates that cannot be read.
        """
        parts: dict[str, Any] = dict(parse_url(url))
        is_tls = parts.pop("connection_class", None) is SSLConnection
        address = cls(
            host=parts.pop("host", "localhost"),
            port=parts.pop("port", _DEFAULT_PORT),
            path=parts.pop("path", None),
            database=parts.pop("db", 0),
            username=parts.pop("username", None),
            password=parts.pop("password", None),
            tls=_tls({name: parts.pop(name) for name in list(parts) if name.startswith(_TLS_OPTION)})
            if is_tls
            else None,
        )
        if parts:
            raise ValueError(f"a URL of Redis has no option {min(parts)} here")
        return address


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """Make the context as redis-py's connections do, from the options of a URL without their prefix."""
    chosen: dict[str, Any] = {"cert_reqs": "required", "check_hostname": True}
    chosen.update((name.removeprefix(_TLS_OPTION), value) for name, value in options.items())
    try:
        return RedisSSLContext(**chosen).get()
    except (TypeError, OSError, RedisPyError) as error:
        raise ValueError(f"the TLS options of Redis' URL cannot be used ({type(error).__name__})") from None


@dataclass(slots=True)
class _Expected:
    replies: int
    done: asyncio.Future[list[Any]]
    received: list[Any] = field(default_factory=list)


class RespConnection(asyncio.Protocol):
    """A connection that is good until something goes wrong with it, and then never again."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=RedisError, replyError=RedisError)
        self._expected: deque[_Expected] = deque()
        self._transport: asyncio.Transport | None = None
        self._broken = False
        self.instance = ""

    @classmethod
    async def open(cls, address: Address, scripts: Sequence[str] = ()) -> RespConnection:
        """Connect, authenticate, learn which instance it is and make the scripts known to it.

        Raises ``RedisError``. Waits as long as it takes: bound it. Cancelling it closes the connection.
        """
        connection = cls()
        try:
            await connection._connect(address)
            first = _greeting(address)
            loading = [("SCRIPT", "LOAD", script) for script in scripts]
            replies = await connection.call([*first, ("INFO", "server"), *loading])
            connection.instance = _run_id(replies[len(first)])
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def is_good(self) -> bool:
        """Whether it may be used."""
        return not self._broken and self._transport is not None

    async def call(self, commands: Sequence[tuple[Any, ...]], timeout_s: float | None = None) -> list[Any]:
        """Send commands at once and return their replies, in order.

        Raises ``RedisError`` if one of them is refused, the connection breaks or time is up; no reply counts then, and
        after a timeout the connection is closed: its late replies would be taken for others'.
        """
        done, bound = self._send(commands), None
        if timeout_s is not None:
            loop = asyncio.get_running_loop()
            bound = loop.call_later(timeout_s, loop.call_later, LATE_S, self._give_up, done)
        try:
            return await done
        finally:
            if bound is not None:
                bound.cancel()
            del done, bound  # which may have the error, whose traceback has this frame (ADR 0033)

    def _give_up(self, done: asyncio.Future[list[Any]]) -> None:
        if not done.done():
            done.set_exception(RedisError("timeout"))
            self.close()

    def _send(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not commands:
            done.set_result([])
        elif not self.is_good or self._transport is None:
            done.set_exception(RedisError("not connected"))
        else:
            self._expected.append(_Expected(len(commands), done))
            self._transport.write(b"".join(map(hiredis.pack_command, commands)))
        return done

    def close(self) -> None:
        """Close it; what is expected of it fails. Doing it again does nothing."""
        self._broken = True
        if self._transport is not None:
            self._transport.abort()
        self._fail(RedisError("the connection was closed"))

    async def _connect(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        try:
            if address.path is not None:
                await loop.create_unix_connection(lambda: self, address.path)
            else:
                await loop.create_connection(lambda: self, address.host, address.port, ssl=address.tls)
        except OSError as error:
            raise RedisError(f"cannot connect ({type(error).__name__})") from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; called by the event loop."""
        self._transport = transport  # type: ignore[assignment]  # a stream's is never less
        if self._broken:
            self.close()

    def data_received(self, data: bytes) -> None:
        """Take in replies; called by the event loop."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except RedisError as error:
            self._broken = True
            self._fail(RedisError(f"what came is not Redis' protocol ({type(error).__name__})"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is expected; called by the event loop."""
        self._broken = True
        self._fail(RedisError(f"the connection broke ({type(exc).__name__})"))

    def _take(self, reply: Any) -> None:
        if not self._expected:
            raise RedisError("a reply that nobody asked for")
        expected = self._expected[0]
        expected.received.append(reply)
        if len(expected.received) < expected.replies:
            return
        self._expected.popleft()
        if expected.done.done():
            return
        refused = next((r for r in expected.received if isinstance(r, Exception)), None)
        if refused is None:
            expected.done.set_result(expected.received)
        else:
            expected.done.set_exception(_refusal(refused))

    def _fail(self, error: RedisError) -> None:
        while self._expected:
            done = self._expected.popleft().done
            if not done.done():
                done.set_exception(error)


def _greeting(address: Address) -> list[tuple[Any, ...]]:
    """Return the commands by which a connection becomes this user's, in this database."""
    greeting: list[tuple[Any, ...]] = []
    if address.password is not None:
        who = () if address.username is None else (address.username,)
        greeting.append(("AUTH", *who, address.password))
    if address.database:
        greeting.append(("SELECT", address.database))
    return greeting


def _refusal(reply: Exception) -> RedisError:
    """Return the error for a reply, with the word at its beginning and nothing of the rest, which may quote values."""
    return RedisError(f"refused ({str(reply).partition(' ')[0]})")


def _run_id(info: bytes) -> str:
    for line in info.decode("utf-8", "replace").splitlines():
        if line.startswith("run_id:"):
            return line.removeprefix("run_id:").strip()
    raise RedisError("the server does not say which instance it is")
