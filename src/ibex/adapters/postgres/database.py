"""A bounded connection pool for one PostgreSQL role, and transactions that are bound to an organization."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ibex.adapters.postgres.connections import (
    CheckedOut,
    ConnectionLog,
    StandbyError,
    begin,
    connect_arguments,
    is_read_only,
    is_useless,
)
from ibex.adapters.postgres.credentials import RotatingUrl
from ibex.adapters.postgres.failures import domain_error
from ibex.adapters.postgres.reachable import reason_of
from ibex.adapters.postgres.roles import UnsafeRoleError, check_role
from ibex.domain.errors import OutcomeUnknownError, ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from typing import LiteralString
    from uuid import UUID

    from psycopg import AsyncConnection

POOL_SIZE: Final = 10
POOL_TIMEOUT_S: Final = 2.0
# The pool retries a broken connection for this long, a second apart. After that, the next request starts new attempts.
RECONNECT_TIMEOUT_S: Final = 2.0
# If this many requests wait for a connection, the pool refuses the next one at once.
MAX_WAITING: Final = 1_000
# Longer than the timeout of a statement, so that it only applies to servers that do not answer at all.
TRANSACTION_TIMEOUT_S: Final = 6.0
# The caller must know within the bound of ADR 0045 that a change was committed, or that the outcome is unknown.
COMMIT_TIMEOUT_S: Final = 2.0
# How often all connections are replaced while the server stays read-only or hangs.
REPLACE_ALL_S: Final = 2.0


class Database:
    """A database, accessed as one role. The constructor does not connect."""

    def __init__(
        self,
        url: str,
        role: str,
        *,
        pool_size: int = POOL_SIZE,
        prepares: bool = False,
        pool_timeout_s: float = POOL_TIMEOUT_S,
        transaction_timeout_s: float = TRANSACTION_TIMEOUT_S,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
    ) -> None:
        """Set a ``postgresql://`` URL (TCP, or a Unix socket as ``?host=/directory``) and the role that it must use.

        ``prepares`` keeps prepared statements on each connection. All timeouts are in seconds. Raises ``ValueError``,
        with no part of the URL, if libpq cannot parse it.
        """
        self._url = RotatingUrl(url)
        self._arguments = connect_arguments(url, role, prepares=prepares)
        self._role = role
        self.pool_size = pool_size
        self.prepares = prepares
        self._pool_timeout_s = pool_timeout_s
        self._transaction_timeout_s = transaction_timeout_s
        self._commit_timeout_s = commit_timeout_s
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._unsafe: UnsafeRoleError | None = None
        self._log = ConnectionLog(role)
        self._replaced_at = -REPLACE_ALL_S
        self._made_at: WeakKeyDictionary[AsyncConnection[Any], float] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Database as {self._role}>"

    async def open(self) -> None:
        """Start the pool. Raises ``UnsafeRoleError`` if the server answers and the role is not safe.

        If the server is down or refuses the connection, the reason is logged. The pool connects later and checks the
        role then.
        """
        connection_class = self._url.connection_class(self._log.observed())
        try:
            async with await connection_class.connect(**self._arguments) as connection:
                await check_role(connection, self._role)
        except psycopg.Error:
            pass  # the pool checks the role of every new connection
        self._pool = AsyncConnectionPool(
            self._url.current,
            connection_class=connection_class,
            kwargs=self._arguments,
            configure=self._check_new,
            min_size=1,
            max_size=self.pool_size,
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
        """Run an empty transaction. Raises ``ServiceDegradedError`` if the server does not answer, or is a standby."""
        async with self.transaction():
            pass

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
        async with self._errors():
            checked_out = await self._check_out(org_id, timeout_s)
            try:
                yield checked_out.connection
                checked_out.limit_to(self._commit_timeout_s)
                await _commit(checked_out.connection)
            except BaseException as error:
                await self._undo(checked_out, error)
                raise
            finally:
                await checked_out.release()

    async def execute_and_commit(
        self, statement: LiteralString, values: Mapping[str, object] | Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, and return its rows.

        The server gets the statement and its COMMIT together, so that no lock of the statement lasts until this process
        continues. For the role ``ibex_app`` it sees no rows. Raises as ``transaction`` does, but
        ``ServiceDegradedError`` also if the statement may have been committed, and ``psycopg.Error`` for a violated
        constraint and for invalid data. Use it for idempotent statements.
        """
        async with self._errors(psycopg.IntegrityError, psycopg.DataError):
            checked_out = await self._check_out(None, None)
            try:
                async with checked_out.connection.pipeline():
                    cursor = await checked_out.connection.execute(statement, values)
                    await checked_out.connection.execute(b"COMMIT")
                return await cursor.fetchall()
            except BaseException as error:
                await self._undo(checked_out, error)
                raise
            finally:
                await checked_out.release()

    @asynccontextmanager
    async def _errors(self, *untranslated: type[psycopg.Error]) -> AsyncIterator[None]:
        """Raise domain errors for the vendor errors of the block, but for ``untranslated`` ones."""
        try:
            yield
        except untranslated:
            raise
        except PoolTimeout as error:
            if self._unsafe is None and self._log.reason is not None:
                raise ServiceDegradedError(f"The database is not available ({self._log.reason}).") from None
            raise self._unsafe or domain_error(error) from None
        except psycopg.Error as error:
            raise domain_error(error) from None

    async def _check_out(self, org_id: UUID | None, timeout_s: float | None) -> CheckedOut:
        """Check out a live connection and begin a transaction. Skip connections that died in the pool.

        The beginning does nothing that lasts. It detects a dead connection, a hung server and a server that is not the
        primary any more. A primary that is read-only is used, but only through a connection that was made lately.
        """
        if self._pool is None:
            raise psycopg.OperationalError("the database pool is not open")
        pool_timeout_s = self._pool_timeout_s if timeout_s is None else min(timeout_s, self._pool_timeout_s)
        limit_s = self._transaction_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + pool_timeout_s
        while True:
            connection = await self._pool.getconn(max(0.0, deadline - time.monotonic()))
            checked_out = CheckedOut(self._pool, connection, min(limit_s, pool_timeout_s))
            try:
                if await is_read_only(await connection.execute(begin(org_id))) and self._is_outdated(connection):
                    raise errors.ReadOnlySqlTransaction  # noqa: TRY301 - handled as if the server had refused
            except BaseException as error:
                await self._undo(checked_out, error)
                await checked_out.release()
                if not (isinstance(error, psycopg.Error) and connection.closed):
                    raise
            else:
                checked_out.restart_timer(limit_s)
                return checked_out

    async def _undo(self, checked_out: CheckedOut, error: BaseException) -> None:
        """Roll back, or close the connection if it is useless.

        A useless connection is closed within its transaction, because a pooler then closes its own connection to the
        server too. The other connections of the pool were made to the same server and are replaced.
        """
        if is_useless(error):
            await checked_out.connection.close()
        if checked_out.has_timed_out or is_useless(error):
            await self._replace_all()
        else:
            with suppress(psycopg.Error):
                await checked_out.connection.rollback()

    def _is_outdated(self, connection: AsyncConnection[Any]) -> bool:
        """Return whether a new connection may lead to another server than this one."""
        return self._may_replace_all() or self._made_at.get(connection, 0.0) <= self._replaced_at

    def _may_replace_all(self) -> bool:
        return time.monotonic() - self._replaced_at >= REPLACE_ALL_S

    async def _replace_all(self) -> None:
        if self._pool is not None and self._may_replace_all():
            self._replaced_at = time.monotonic()
            await self._pool.drain()

    async def _check_new(self, connection: AsyncConnection[Any]) -> None:
        self._made_at[connection] = time.monotonic()
        try:
            await check_role(connection, self._role)
        except UnsafeRoleError as error:
            self._unsafe = error
            self._log.failed(str(error))
            raise
        except psycopg.Error as error:
            self._log.failed(str(error) if isinstance(error, StandbyError) else reason_of(error))
            raise
        self._unsafe = None
        self._log.connected()


async def _commit(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.commit()
    except psycopg.Error as error:
        # The server did not answer, or ended the session. Otherwise it has answered that the commit failed.
        if connection.closed or is_useless(error):
            raise OutcomeUnknownError from error
        raise
