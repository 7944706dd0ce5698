"""A connection pool. A request gets an idle connection, a new one, or the next one that is released."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import httpx

from ibex.adapters.http_client.connection import READ_BYTES, Http1Connection
from ibex.adapters.http_client.descriptors import has_no_descriptor
from ibex.adapters.http_client.happy_eyeballs import connect, resolve
from ibex.adapters.http_client.not_connected import not_connected

if TYPE_CHECKING:
    from ibex.adapters.http_client.happy_eyeballs import Resolver
    from ibex.adapters.http_client.tls import ResumingContext

KEEP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Origin:
    """The server that connections lead to; ``tls`` is None for plain TCP."""

    host: str
    port: int
    tls: ResumingContext | None = None


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of a pool.

    ``connections`` is the maximum of connections, ``waiting`` that of requests that wait for one. A connection that is
    idle for ``keep_s`` seconds is closed.
    """

    connections: int
    waiting: int
    keep_s: float = KEEP_S


class ConnectionPool:
    """A pool of connections to one origin. A new connection belongs to no request: it goes to the first waiter.

    A request that is cancelled while it waits therefore has nothing to clean up. The most recently used idle connection
    is taken first, so that surplus connections expire.
    """

    def __init__(self, origin: Origin, limits: PoolLimits, resolve: Resolver = resolve) -> None:
        self._origin = origin
        self._limits = limits
        self._resolve = resolve
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._idle: deque[Http1Connection] = deque()
        self._open: set[Http1Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiters: deque[asyncio.Future[Http1Connection]] = deque()
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._all_closed = asyncio.Event()
        self._closed = False

    @property
    def in_use(self) -> int:
        """The number of connections that carry a request."""
        return sum(connection.is_in_use for connection in self._open)

    async def get(self, *, connect_s: float | None, wait_s: float | None, fresh: bool = False) -> Http1Connection:
        """Return a connection for one request. If ``fresh`` is true, it is not an idle one.

        ``connect_s`` limits the time to connect, including all addresses and TLS; ``wait_s`` limits the wait for a
        connection once the pool is full. Both are in seconds. Raises ``httpx.ConnectError``, ``ConnectTimeout``, and
        ``PoolTimeout`` if too many requests wait, if this one waits too long, or if no file descriptor is left.
        """
        idle = None if fresh else self.take_idle()
        if idle is not None:
            return idle
        while True:
            connection = await self._wait_for_connection(connect_s, wait_s)
            if connection.is_open:
                return connection

    def use_tls(self, tls: ResumingContext) -> None:
        """Use another TLS context for new connections. Open connections stay."""
        self._origin = replace(self._origin, tls=tls)

    def connected(self, connection: Http1Connection) -> None:
        """Count a new connection."""
        self._open.add(connection)

    def released(self, connection: Http1Connection) -> None:
        """Take a connection back. It goes to the first waiter, or becomes idle."""
        if self._origin.tls is not None:
            self._origin.tls.save_session(connection.ssl_object)
        self._offer(connection)

    def lost(self, connection: Http1Connection) -> None:
        """Remove a closed connection, and connect again if requests wait."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed and not self._open:
            self._all_closed.set()
        self._connect_for_waiters(None)

    async def aclose(self) -> None:
        """Close every connection, including those in use, and wait until all are closed."""
        self._closed = True
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        for task in self._connecting:
            task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_closed_error())
        for connection in self._open:
            connection.close()
        if self._open:
            await self._all_closed.wait()

    def take_idle(self) -> Http1Connection | None:
        """Take an idle connection out of the pool and return it, or None if no connection is idle."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._age_s(connection) < self._limits.keep_s:
                return connection
            connection.close()
        return None

    async def _wait_for_connection(self, connect_s: float | None, wait_s: float | None) -> Http1Connection:
        if self._closed:
            raise _closed_error()
        waiter: asyncio.Future[Http1Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._has_room():
            self._start_connecting(connect_s)
            wait_s = None  # the timeout for connecting limits the wait
        elif len(self._waiters) - len(self._connecting) > self._limits.waiting:
            self._waiters.remove(waiter)
            raise httpx.PoolTimeout("all connections are in use and too many requests are waiting for one")
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except BaseException as left:
            self._remove_waiter(waiter)
            if isinstance(left, TimeoutError):
                raise httpx.PoolTimeout("no connection became available in time") from None
            raise
        finally:
            del waiter  # break the reference cycle: its exception's traceback contains this frame (ADR 0033)

    def _remove_waiter(self, waiter: asyncio.Future[Http1Connection]) -> None:
        """Remove a waiter, and offer the connection that it was given but did not take."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._offer(waiter.result())

    def _offer(self, connection: Http1Connection) -> None:
        if self._closed or not connection.is_open:
            connection.close()
            return
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._expiry_timer is None:
            self._expiry_timer = loop.call_later(self._limits.keep_s, self._close_expired)

    def _next_waiter(self) -> asyncio.Future[Http1Connection] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _has_room(self) -> bool:
        return len(self._open) + len(self._connecting) < self._limits.connections

    def _connect_for_waiters(self, connect_s: float | None) -> None:
        if not self._closed and len(self._waiters) > len(self._connecting) and self._has_room():
            self._start_connecting(connect_s)

    def _start_connecting(self, connect_s: float | None) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(connect_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connect_s: float | None) -> None:
        """Connect for the first waiter, or raise the error in it."""
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(connect_s):
                connection = await self._new_connection()
        except Exception as error:  # noqa: BLE001 - the waiter must get any error
            if task is not None:
                self._connecting.discard(task)
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.set_exception(_connect_error(error, self._origin))
            self._connect_for_waiters(connect_s)
        else:
            if task is not None:
                self._connecting.discard(task)
            self._offer(connection)
            self._connect_for_waiters(connect_s)  # up to here the connection counted twice, in _open and in _connecting

    async def _new_connection(self) -> Http1Connection:
        """Connect to the first address that accepts, then do the TLS handshake."""
        origin = self._origin
        connected = await connect(await self._resolve(origin.host, origin.port))
        _, connection = await asyncio.get_running_loop().create_connection(
            self._create_protocol,
            sock=connected,
            ssl=origin.tls,
            server_hostname=origin.host if origin.tls else None,
        )
        return connection

    def _create_protocol(self) -> Http1Connection:
        return Http1Connection(self, self._buffer)

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._age_s(self._idle[0]) >= self._limits.keep_s:
            self._idle.popleft().close()
        self._expiry_timer = None
        if self._idle:
            oldest = self._idle[0].idle_since
            self._expiry_timer = loop.call_at(oldest + self._limits.keep_s, self._close_expired)

    def _age_s(self, connection: Http1Connection) -> float:
        return asyncio.get_running_loop().time() - connection.idle_since


def _connect_error(error: Exception, origin: Origin) -> httpx.TransportError:
    if isinstance(error, OSError) and has_no_descriptor(error):
        return httpx.PoolTimeout("no file descriptor is left for a connection")
    return not_connected(error, origin.host, origin.port)


def _closed_error() -> httpx.ConnectError:
    return httpx.ConnectError("the transport is closed")
