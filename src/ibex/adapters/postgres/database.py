"""A bounded connection pool for one PostgreSQL role, and transactions that are bound to an organization."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ibex.adapters.postgres.credentials import RotatingUrl
from ibex.adapters.postgres.failures import domain_error
from ibex.adapters.postgres.roles import UnsafeRoleError, check_role
from ibex.domain.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from psycopg import AsyncConnection

POOL_SIZE: Final = 10
CONNECT_TIMEOUT_S: Final = 2
POOL_TIMEOUT_S: Final = 2.0
# The pool retries a broken connection for this long, a second apart. After that, the next request starts new attempts.
RECONNECT_TIMEOUT_S: Final = 2.0
# If this many requests wait for a connection, the pool refuses the next one at once.
MAX_WAITING: Final = 1_000
# The longest time for which a statement or an idle transaction can hold locks that block others.
STATEMENT_TIMEOUT_S: Final = 5
# Longer than STATEMENT_TIMEOUT_S, so that it only applies to servers that do not answer at all.
TRANSACTION_TIMEOUT_S: Final = 6.0
# The caller must know within the bound of ADR 0045 that a change was committed, or that the outcome is unknown.
COMMIT_TIMEOUT_S: Final = 2.0
# All statements look up rows by key. Connections and foreign-key checks keep a plan that was made while a table was
# small. With ``enable_seqscan`` off, such a plan does not read the whole table for every row once the table has grown.
_SESSION_SETTINGS: Final = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "enable_seqscan": "off",
}


class Database:
    """A database, accessed as one role. The constructor does not connect."""

    def __init__(
        self,
        url: str,
        role: str,
        *,
        pool_size: int = POOL_SIZE,
        pool_timeout_s: float = POOL_TIMEOUT_S,
        transaction_timeout_s: float = TRANSACTION_TIMEOUT_S,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
    ) -> None:
        """Set a ``postgresql://`` URL (TCP, or a Unix socket as ``?host=/directory``) and the role that it must use.

        All timeouts are in seconds.
        """
        self._url = RotatingUrl(url)
        self._role = role
        self._pool_size = pool_size
        self._pool_timeout_s = pool_timeout_s
        self._transaction_timeout_s = transaction_timeout_s
        self._commit_timeout_s = commit_timeout_s
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._unsafe: UnsafeRoleError | None = None

    def __repr__(self) -> str:
        return f"<Database as {self._role}>"

    async def open(self) -> None:
        """Start the pool. Raises ``UnsafeRoleError`` if the server answers and the role is not safe.

        If the server is down, the pool connects later and checks the role then.
        """
        arguments: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": self._role,
            "options": " ".join(f"-c {name}={value}" for name, value in _SESSION_SETTINGS.items()),
        }
        try:
            async with await psycopg.AsyncConnection.connect(self._url.current, **arguments) as connection:
                await check_role(connection, self._role)
        except psycopg.Error:
            pass  # the server is down; the pool checks the role of every new connection
        self._pool = AsyncConnectionPool(
            self._url.current,
            connection_class=self._url.connection_class(),
            kwargs=arguments,
            configure=self._check_new,
            min_size=1,
            max_size=self._pool_size,
            max_waiting=MAX_WAITING,
            timeout=self._pool_timeout_s,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            name=self._role,
            open=False,
        )
        await self._pool.open()

    def change_url(self, url: str) -> None:
        """Use another URL, such as one with a new password, for new connections. Open connections stay."""
        self._url.replace(url)

    async def close(self) -> None:
        """Close every connection. Idempotent; does nothing if the pool is not open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def ping(self) -> None:
        """Run a trivial statement. Raises ``ServiceDegradedError`` if the server does not answer."""
        async with self.transaction() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(
        self, org_id: UUID | None = None, *, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Run the block in a transaction. For the role ``ibex_app`` it sees only the rows of ``org_id``; none for None.

        Commits at the end, rolls back if the block raises. Vendor errors become domain errors, by
        ``failures.domain_error``: ``ServiceDegradedError`` if the server cannot be reached or does not answer in time,
        and ``OutcomeUnknownError`` if it does not answer the commit. ``timeout_s`` applies to the wait for a
        connection, and then again to the whole transaction; None means the defaults of this database.
        """
        begin = b"BEGIN"
        if org_id is not None:
            begin += b"; SET LOCAL app.current_org_id = '%s'" % str(org_id).encode("ascii")
        async with self._errors():
            checked_out = await self._check_out(begin, timeout_s)
            try:
                yield checked_out.connection
                checked_out.limit_to(self._commit_timeout_s)
                await _commit(checked_out.connection)
            except BaseException:
                with suppress(psycopg.Error):
                    await checked_out.connection.rollback()
                raise
            finally:
                await checked_out.release()

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Run the block on a connection whose server commits each statement at its end.

        No statement leaves a lock that lasts until this process continues. For the role ``ibex_app`` it sees no rows.
        Raises as ``transaction`` does, but ``ServiceDegradedError`` also if a statement may have been committed. Use it
        for idempotent statements.
        """
        async with self._errors():
            checked_out = await self._check_out(b"SELECT", None)
            try:
                yield checked_out.connection
            finally:
                await checked_out.release()

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """Raise domain errors for the vendor errors of the block."""
        try:
            yield
        except PoolTimeout as error:
            raise self._unsafe or domain_error(error) from None
        except psycopg.Error as error:
            raise domain_error(error) from None

    async def _check_out(self, first: bytes, timeout_s: float | None) -> _CheckedOut:
        """Check out a live connection and run a first statement. Skip connections that died in the pool.

        The statement, such as BEGIN, does nothing that lasts, and detects a dead connection.
        """
        if self._pool is None:
            raise psycopg.OperationalError("the database pool is not open")
        pool_timeout_s = self._pool_timeout_s if timeout_s is None else min(timeout_s, self._pool_timeout_s)
        deadline = time.monotonic() + pool_timeout_s
        while True:
            connection = await self._pool.getconn(max(0.0, deadline - time.monotonic()))
            limit_s = self._transaction_timeout_s if timeout_s is None else timeout_s
            checked_out = _CheckedOut(self._pool, connection, limit_s)
            try:
                await connection.execute(first)
            except BaseException as error:
                await checked_out.release()
                if not (isinstance(error, psycopg.OperationalError) and connection.closed):
                    raise
            else:
                return checked_out

    async def _check_new(self, connection: AsyncConnection[Any]) -> None:
        try:
            await check_role(connection, self._role)
        except UnsafeRoleError as error:
            self._unsafe = error
            raise
        self._unsafe = None


async def _commit(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.commit()
    except psycopg.Error as error:
        if connection.closed:  # the server did not answer; otherwise it has answered that the commit failed
            raise OutcomeUnknownError from error
        raise


class _CheckedOut:
    """A connection that is checked out of the pool. Its socket is shut down if it is not released in time.

    A server that hangs enforces no statement timeout, and does not answer a request to cancel. Shutting the socket down
    makes every pending read fail.
    """

    def __init__(
        self, pool: AsyncConnectionPool[AsyncConnection[Any]], connection: AsyncConnection[Any], timeout_s: float
    ) -> None:
        self.connection = connection
        self._pool = pool
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._shut_down)

    def limit_to(self, seconds: float) -> None:
        """Shorten the remaining time to this many seconds. Never extends it."""
        loop = asyncio.get_running_loop()
        if self._timer.when() > loop.time() + seconds:
            self._timer.cancel()
            self._timer = loop.call_later(seconds, self._shut_down)

    async def release(self) -> None:
        """Return the connection to its pool, which replaces it if it is broken."""
        self._timer.cancel()
        await self._pool.putconn(self.connection)

    def _shut_down(self) -> None:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.connection.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)
