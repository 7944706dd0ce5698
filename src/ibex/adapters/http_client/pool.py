"""Which connection a request gets: a kept one, a new one, or the next that is given back."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx

from ibex.adapters.http_client.connection import READ_BYTES, Http1Connection
from ibex.adapters.http_client.descriptors import has_no_descriptor

if TYPE_CHECKING:
    from ibex.adapters.http_client.tls import ResumingContext

KEEP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections lead to; ``tls`` is None for plain TCP."""

    host: str
    port: int
    tls: ResumingContext | None = None


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """At most so many connections, and so many requests that wait for one; a kept one is closed after ``keep_s``."""

    connections: int
    waiting: int
    keep_s: float = KEEP_S


class ConnectionPool:
    """A pool of connections to one origin. A new connection belongs to no request: it goes to the first waiter.

    So a request that is cancelled while it waits has nothing to clean up. The youngest of the kept connections is used
    first, so that the others grow old and are closed.
    """

    def __init__(self, origin: Origin, limits: PoolLimits) -> None:
        self._origin = origin
        self._limits = limits
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._idle: deque[Http1Connection] = deque()
        self._open: set[Http1Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._line: deque[asyncio.Future[Http1Connection]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._closed = False

    @property
    def in_use(self) -> int:
        """How many connections have a request on them."""
        return sum(connection.is_in_use for connection in self._open)

    async def get(self, *, connect_s: float | None, wait_s: float | None, fresh: bool = False) -> Http1Connection:
        """Return a connection to send one request on; ``fresh``: not one that was kept.

        ``connect_s`` bounds the making of a connection, ``wait_s`` the waiting for one where no more may be made.
        Raises ``httpx.ConnectError``, ``ConnectTimeout``, and ``PoolTimeout`` if too many requests wait, if one
        waits for too long, or if no file descriptor is left.
        """
        kept = None if fresh else self.kept()
        if kept is not None:
            return kept
        while True:
            connection = await self._waiters(connect_s, wait_s)
            if connection.is_open:
                return connection

    def connected(self, connection: Http1Connection) -> None:
        """Count a connection that there is from now on."""
        self._open.add(connection)

    def released(self, connection: Http1Connection) -> None:
        """Take a connection back, and give it to the first waiter."""
        if self._origin.tls is not None:
            self._origin.tls.remember(connection.ssl_object)
        self._offer(connection)

    def lost(self, connection: Http1Connection) -> None:
        """A connection is closed: there is room for another."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._open:
            self._all_gone.set()
        self._connect_for_the_line(None)

    async def aclose(self) -> None:
        """Close every connection, whoever uses it, and return when nothing is left."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._connecting:
            task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        for waiter in self._line:
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in self._open:
            connection.close()
        if self._open:
            await self._all_gone.wait()

    def kept(self) -> Http1Connection | None:
        """Return a connection that was kept, None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._age_s(connection) < self._limits.keep_s:
                return connection
            connection.close()
        return None

    async def _waiters(self, connect_s: float | None, wait_s: float | None) -> Http1Connection:
        if self._closed:
            raise _closed()
        waiter: asyncio.Future[Http1Connection] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        if self._has_room():
            self._start_connecting(connect_s)
            wait_s = None  # its end comes with that of the connecting
        elif len(self._line) - len(self._connecting) > self._limits.waiting:
            self._line.remove(waiter)
            raise httpx.PoolTimeout("all connections are in use and too many requests wait for one")
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except BaseException as left:
            self._leave(waiter)
            if isinstance(left, TimeoutError):
                raise httpx.PoolTimeout("no connection became free in time") from None
            raise
        finally:
            del waiter  # which may have the error, whose traceback has this frame (ADR 0033)

    def _leave(self, waiter: asyncio.Future[Http1Connection]) -> None:
        """Pass on what a waiter was given that does not take it any more."""
        if waiter in self._line:
            self._line.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._offer(waiter.result())

    def _offer(self, connection: Http1Connection) -> None:
        if self._closed or not connection.is_open:
            connection.close()
            return
        waiter = self._next_in_line()
        if waiter is not None:
            waiter.set_result(connection)
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._limits.keep_s, self._close_the_old)

    def _next_in_line(self) -> asyncio.Future[Http1Connection] | None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                return waiter
        return None

    def _has_room(self) -> bool:
        return len(self._open) + len(self._connecting) < self._limits.connections

    def _connect_for_the_line(self, connect_s: float | None) -> None:
        if not self._closed and len(self._line) > len(self._connecting) and self._has_room():
            self._start_connecting(connect_s)

    def _start_connecting(self, connect_s: float | None) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(connect_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connect_s: float | None) -> None:
        """Connect for the first waiter, or give it the error."""
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(connect_s):
                connection = await self._new_connection()
        except Exception as error:  # noqa: BLE001 - the waiter must get any error
            if task is not None:
                self._connecting.discard(task)
            waiter = self._next_in_line()
            if waiter is not None:
                waiter.set_exception(_of_connecting(error))
            self._connect_for_the_line(connect_s)
        else:
            if task is not None:
                self._connecting.discard(task)
            self._offer(connection)
            self._connect_for_the_line(connect_s)  # until now it counted twice, as open and as being made

    async def _new_connection(self) -> Http1Connection:
        origin = self._origin
        _, connection = await asyncio.get_running_loop().create_connection(
            self._made, origin.host, origin.port, ssl=origin.tls, server_hostname=origin.host if origin.tls else None
        )
        return connection

    def _made(self) -> Http1Connection:
        return Http1Connection(self, self._buffer)

    def _close_the_old(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._age_s(self._idle[0]) >= self._limits.keep_s:
            self._idle.popleft().close()
        self._sweep = None
        if self._idle:
            oldest = self._idle[0].idle_since
            self._sweep = loop.call_at(oldest + self._limits.keep_s, self._close_the_old)

    def _age_s(self, connection: Http1Connection) -> float:
        return asyncio.get_running_loop().time() - connection.idle_since


def _of_connecting(error: Exception) -> httpx.TransportError:
    if isinstance(error, OSError) and has_no_descriptor(error):
        return httpx.PoolTimeout("the process has no file descriptor left for a connection")
    if isinstance(error, TimeoutError):
        return httpx.ConnectTimeout("the connection was not made in time")
    return httpx.ConnectError("the connection could not be made")


def _closed() -> httpx.ConnectError:
    return httpx.ConnectError("the transport is closed")
