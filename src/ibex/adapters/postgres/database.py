"""One bounded pool of connections to PostgreSQL, as one role, and transactions that are bound to an organization."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

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
# Broken connections are tried anew for this long, a second apart; after that a request that wants one starts over.
RECONNECT_TIMEOUT_S: Final = 2.0
# Beyond this many waiting for a connection, the next is refused at once.
MAX_WAITING: Final = 1_000
# A statement or a forgotten transaction must not hold locks, and so everybody else, for longer.
STATEMENT_TIMEOUT_S: Final = 5
# Longer than that, so that it is for servers that do not answer at all.
TRANSACTION_TIMEOUT_S: Final = 6.0
# A change that may have been made already must be known, or known to be in doubt, before the bound of ADR 0045 is over.
COMMIT_TIMEOUT_S: Final = 2.0
# Statements here go by key. A plan made while a table was small is kept, by connections and by foreign-key checks, when
# it has grown; with ``enable_seqscan`` off such a plan does not read all of it for every row.
_SESSION_SETTINGS: Final = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "enable_seqscan": "off",
}


class Database:
    """A database as one role sees it. Constructing it connects to nothing."""

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
        """Take a ``postgresql://`` URL (TCP, or a Unix socket as ``?host=/directory``) and the role that it must be."""
        self._url = url
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
        """Start the pool. Raises ``UnsafeRoleError``, at once if the server answers; one that is down is waited for."""
        arguments: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": self._role,
            "options": " ".join(f"-c {name}={value}" for name, value in _SESSION_SETTINGS.items()),
        }
        try:
            async with await psycopg.AsyncConnection.connect(self._url, **arguments) as connection:
                await check_role(connection, self._role)
        except psycopg.Error:
            pass  # it is down: every connection is checked again when it is made
        self._pool = AsyncConnectionPool(
            self._url,
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

    async def close(self) -> None:
        """Close every connection; doing it again, or without having opened, does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def ping(self) -> None:
        """Ask the server for an answer. Raises ``ServiceDegradedError`` if none comes."""
        async with self.transaction() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(
        self, org_id: UUID | None = None, *, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Run the block in a transaction that sees ``org_id``'s rows, for the role ``ibex_app``; None sees no tenant's.

        Commits at the end, rolls back if the block raises. Vendor errors leave it as the domain's, by
        ``failures.domain_error``: ``ServiceDegradedError`` if the server is not reached, or does not answer, in time;
        an ``OutcomeUnknownError`` if it was asked to commit. ``timeout_s`` is for waiting for a connection, and then
        again for all that is done with it; None is the database's own.
        """
        try:
            lent = await self._begin(org_id, timeout_s)
            try:
                yield lent.connection
                lent.hang_up_in(self._commit_timeout_s)
                await _commit(lent.connection)
            except BaseException:
                with suppress(psycopg.Error):
                    await lent.connection.rollback()
                raise
            finally:
                await lent.give_back()
        except PoolTimeout as error:
            raise self._unsafe or domain_error(error) from None
        except psycopg.Error as error:
            raise domain_error(error) from None

    async def _begin(self, org_id: UUID | None, timeout_s: float | None) -> _Lent:
        """Begin on a connection that is alive: those that died in the pool, as in a restart, are passed over.

        That is found out by the first statement, when nothing has been done yet, and so costs no round trip of its own.
        """
        if self._pool is None:
            raise psycopg.OperationalError("the database is not open")
        begin = b"BEGIN"
        if org_id is not None:
            begin += b"; SET LOCAL app.current_org_id = '%s'" % str(org_id).encode("ascii")
        pool_timeout_s = self._pool_timeout_s if timeout_s is None else min(timeout_s, self._pool_timeout_s)
        deadline = time.monotonic() + pool_timeout_s
        while True:
            connection = await self._pool.getconn(max(0.0, deadline - time.monotonic()))
            lent = _Lent(self._pool, connection, self._transaction_timeout_s if timeout_s is None else timeout_s)
            try:
                await connection.execute(begin)
            except BaseException as error:
                await lent.give_back()
                if not (isinstance(error, psycopg.OperationalError) and connection.closed):
                    raise
            else:
                return lent

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
        if connection.closed:  # so there was no answer; one that has come is that it was not made
            raise OutcomeUnknownError from error
        raise


class _Lent:
    """A connection out of the pool, whose socket is shut if it is not given back in time.

    A server that hangs enforces no timeout of its own, and would not answer a request to cancel either; a shut socket
    fails whatever waits for it.
    """

    def __init__(
        self, pool: AsyncConnectionPool[AsyncConnection[Any]], connection: AsyncConnection[Any], timeout_s: float
    ) -> None:
        self.connection = connection
        self._pool = pool
        self._hang_up = asyncio.get_running_loop().call_later(timeout_s, self._shut)

    def hang_up_in(self, seconds: float) -> None:
        """Give it so long from now, or as long as it has if that is less."""
        loop = asyncio.get_running_loop()
        if self._hang_up.when() > loop.time() + seconds:
            self._hang_up.cancel()
            self._hang_up = loop.call_later(seconds, self._shut)

    async def give_back(self) -> None:
        """Return the connection to its pool, which replaces it if it is broken."""
        self._hang_up.cancel()
        await self._pool.putconn(self.connection)

    def _shut(self) -> None:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.connection.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)
