"""Connections to PostgreSQL: how they are made, what each transaction sets, and when a connection is useless.

IBEX sends no start-up ``options`` and keeps no state in a session, because a pooler such as PgBouncer in transaction
mode refuses the former and may run each transaction in another session. Each transaction sets what it needs (ADR 0058).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ibex.adapters.postgres.reachable import reason_of

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg_pool import AsyncConnectionPool

CONNECT_TIMEOUT_S: Final = 2
# With IBEX_DATABASE_PREPARE=on, a statement is prepared when a connection runs it for the sixth time.
_PREPARE_AFTER: Final = 5
# The longest time for which a statement or an idle transaction can hold locks that block others.
STATEMENT_TIMEOUT_S: Final = 5
# A host that vanished is noticed within 6 s: by unacknowledged data, or on an idle connection by its probes.
_PEER_TIMEOUTS: Final = {
    "tcp_user_timeout": 6_000,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
# All statements look up rows by key. Connections and foreign-key checks keep a plan that was made while a table was
# small. With ``enable_seqscan`` off, such a plan does not read the whole table for every row once the table has grown.
_BEGIN: Final = (
    b"BEGIN; SET LOCAL timezone = 'UTC'; SET LOCAL enable_seqscan = off;"
    b" SET LOCAL statement_timeout = '%(s)ds'; SET LOCAL idle_in_transaction_session_timeout = '%(s)ds';"
    % {b"s": STATEMENT_TIMEOUT_S}
)
_READ_ONLY: Final = "25006"
_LAST_RESULT: Final = -1
_LOG = logging.getLogger("ibex.postgres")


class StandbyError(psycopg.OperationalError):
    """The server is a standby, which may lack the newest changes."""


def connect_arguments(url: str, role: str, *, prepares: bool) -> dict[str, Any]:
    """Return the arguments of a connection in addition to the URL, whose own parameters take precedence.

    Raises ``ValueError`` if libpq cannot parse the URL. The message contains no part of it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise ValueError("it is not a URL that PostgreSQL's libpq can parse; check its parameters") from None
    defaults = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": role, **_PEER_TIMEOUTS}
    own = {name: value for name, value in defaults.items() if name not in given}
    return {**own, "autocommit": True, "prepare_threshold": _PREPARE_AFTER if prepares else None}


def begin(org_id: UUID | None) -> bytes:
    """Return the statements that begin a transaction, to be sent in one message; see ``is_read_only``."""
    bind = b" SET LOCAL app.current_org_id = '%s';" % str(org_id).encode("ascii") if org_id is not None else b""
    return _BEGIN + bind + b" SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"


async def is_read_only(began: psycopg.AsyncCursor[Any]) -> bool:
    """Return whether the server of a transaction refuses changes. Takes the cursor that executed ``begin``.

    Raises ``StandbyError`` if the server is a standby. Behind a pooler, two transactions of a connection may be on
    different servers.
    """
    await began.set_result(_LAST_RESULT)
    row = await began.fetchone()
    if row is None or row[0]:
        raise StandbyError
    return bool(row[1] == "on")


def is_useless(error: BaseException) -> bool:
    """Return whether the connection of an error must be closed.

    It met a server that is read-only or a standby, that shuts down or starts, or that ended the session.
    """
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    severity = error.diag.severity_nonlocalized
    return (
        isinstance(error, StandbyError)
        or state == _READ_ONLY
        or state.startswith(("08", "57P"))
        or severity in {"FATAL", "PANIC"}
    )


class ConnectionLog:
    """Logs why no connection can be made, once for each reason, and that connections can be made again."""

    def __init__(self, role: str) -> None:
        self._role = role
        self.reason: str | None = None
        """Why the latest attempt to connect failed; None if it succeeded."""

    def failed(self, reason: str) -> None:
        """Log the reason of a failed attempt, unless the attempt before failed for the same reason."""
        if reason != self.reason:
            _LOG.warning("cannot connect to PostgreSQL as %s: %s", self._role, reason)
        self.reason = reason

    def connected(self) -> None:
        """Log that connections can be made again, if the attempt before failed."""
        if self.reason is not None:
            _LOG.info("connected to PostgreSQL as %s again", self._role)
        self.reason = None

    def observed(self) -> type[psycopg.AsyncConnection[Any]]:
        """Return a type of connections whose failed attempts are reported here."""
        report = self.failed

        class Observed(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **arguments: Any) -> Any:
                try:
                    return await super().connect(conninfo, **arguments)
                except psycopg.Error as error:
                    report(reason_of(error))
                    raise

        return Observed


class CheckedOut:
    """A connection that is checked out of the pool. Its socket is shut down if it is not released in time.

    A server that hangs enforces no statement timeout, and does not answer a request to cancel. Shutting the socket down
    makes every pending read fail.
    """

    def __init__(
        self, pool: AsyncConnectionPool[Any], connection: psycopg.AsyncConnection[Any], timeout_s: float
    ) -> None:
        self.connection = connection
        self.has_timed_out = False
        self._pool = pool
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._shut_down)

    def restart_timer(self, seconds: float) -> None:
        """Allow this many seconds from now."""
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._shut_down)

    def limit_to(self, seconds: float) -> None:
        """Shorten the remaining time to this many seconds. Never extends it."""
        if self._timer.when() > asyncio.get_running_loop().time() + seconds:
            self.restart_timer(seconds)

    async def release(self) -> None:
        """Return the connection to its pool, which replaces it if it is broken or closed."""
        self._timer.cancel()
        await self._pool.putconn(self.connection)

    def _shut_down(self) -> None:
        self.has_timed_out = True
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.connection.fileno())) as connected:
            connected.shutdown(socket.SHUT_RDWR)
