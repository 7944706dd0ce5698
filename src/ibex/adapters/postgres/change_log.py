"""The change log and the live tokens in PostgreSQL, read as the role ``ibex_auth`` (ADR 0045).

A position is an incarnation and a snapshot: ``<uuid>/<xmin>:<xmax>:<running transactions>``. A change comes after a
position if its transaction is not visible in the position's snapshot. A reader therefore does not miss a transaction
that began before others and committed after them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import tuple_row

from ibex.domain.errors import IbexError
from ibex.domain.freshness.change_log import Change, ChangeLogUnavailableError, ChangesRead
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokensPage, TokensUnavailableError

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg import AsyncConnection

    from ibex.adapters.postgres.database import Database

TIMEOUT_S: Final = 1.0
"""The default: two seconds in all, as ``ChangeLog`` requires."""
HORIZON_S: Final = 3_600.0
"""How long a change stays in the log. A worker that was disconnected for longer cannot resume."""
COUNT_TIMEOUT_S: Final = 30.0
_NOW: Final = """
SELECT (SELECT value FROM change_incarnation)::text, pg_current_snapshot()::text, pg_is_in_recovery()
"""
# This is one statement, and so sees one snapshot: every change that it does not return was committed after the position
# that it returns. A reader cannot resume from a position if a change after the position has been pruned, or if its
# transaction ids lie in this server's future (after a restore from an older backup).
_READ: Final = """
WITH since AS (SELECT %(snapshot)s::pg_snapshot AS snapshot)
SELECT i.value::text, pg_current_snapshot()::text, pg_is_in_recovery(),
       pg_snapshot_xmax(s.snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
         AND NOT EXISTS (
           SELECT FROM change_snapshots p
           WHERE p.is_pruned
             AND (pg_snapshot_xmax(p.snapshot::pg_snapshot) > pg_snapshot_xmax(s.snapshot)
                  OR EXISTS (SELECT FROM pg_snapshot_xip(s.snapshot) AS running(xid)
                             WHERE pg_visible_in_snapshot(running.xid, p.snapshot::pg_snapshot)))),
       c.org_id, c.kind, c.live_token
FROM since s
LEFT JOIN change_incarnation i ON true
LEFT JOIN LATERAL (
  SELECT DISTINCT org_id, kind, live_token FROM changes
  WHERE xid >= pg_snapshot_xmin(s.snapshot) AND NOT pg_visible_in_snapshot(xid, s.snapshot)
  LIMIT %(limit)s
) c ON true
"""
MAX_CHANGES: Final = 10_000
"""A reader that is further behind cannot resume: evicting its whole cache is cheaper than this many events."""
_POSITION: Final = re.compile(r"[0-9a-f-]{36}/[0-9]{1,20}:[0-9]{1,20}:[0-9,]*", re.ASCII)
_BEGIN_INCARNATION: Final = "INSERT INTO change_incarnation DEFAULT VALUES ON CONFLICT DO NOTHING"
_COUNT: Final = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
_PAGE: Final = """
SELECT id FROM tokens
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AND id > %(after)s
ORDER BY id LIMIT %(limit)s
"""
_KINDS: Final = frozenset(Kind)
_LOWEST_ID: Final = "00000000-0000-0000-0000-000000000000"
_TAKE_SNAPSHOT: Final = "INSERT INTO change_snapshots DEFAULT VALUES"
# Delete the changes that are visible in the newest snapshot older than the horizon. Mark that snapshot as pruned, and
# delete snapshots that are older than twice the horizon.
_PRUNE: Final = """
WITH horizon AS (
  SELECT id, snapshot::pg_snapshot AS snapshot FROM change_snapshots
  WHERE taken_at < now() - make_interval(secs => %(horizon_s)s)
  ORDER BY id DESC LIMIT 1
), gone AS (
  DELETE FROM changes c USING horizon h
  WHERE c.xid < pg_snapshot_xmax(h.snapshot) AND pg_visible_in_snapshot(c.xid, h.snapshot)
), older AS (
  DELETE FROM change_snapshots s USING horizon h
  WHERE s.id < h.id AND s.taken_at < now() - make_interval(secs => 2 * %(horizon_s)s)
)
UPDATE change_snapshots s SET is_pruned = true FROM horizon h WHERE s.id = h.id
"""


class PostgresChangeLog:
    """A ``ChangeLog``, a ``PrunableLog`` and a ``LiveTokens``.

    ``timeout_s`` limits the wait for a connection, and again the statements, of reading changes.
    """

    def __init__(self, database: Database, timeout_s: float = TIMEOUT_S) -> None:
        self._database = database
        self._timeout_s = timeout_s

    async def read(self, since: str | None) -> ChangesRead:
        """Return the changes since a position, and the new position; see ``ChangeLog``."""
        try:
            async with self._database.transaction(timeout_s=self._timeout_s) as connection:
                if since is None:
                    return ChangesRead(await self._position(connection), None)
                return await self._since(connection, since)
        except IbexError as error:
            raise ChangeLogUnavailableError(str(error)) from error

    async def prune(self, horizon_s: float = HORIZON_S) -> None:
        """Delete the changes that are older than ``horizon_s`` seconds, and take a snapshot for later calls.

        Raises ``ChangeLogUnavailableError``. Several replicas can prune at the same time.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_PRUNE, {"horizon_s": horizon_s})
                await connection.execute(_TAKE_SNAPSHOT)
        except IbexError as error:
            raise ChangeLogUnavailableError(str(error)) from error

    async def count(self) -> int:
        """Return the number of live tokens; see ``LiveTokens``."""
        rows = await self._tokens(_COUNT, {})
        return int(rows[0][0])

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return a page of live tokens; see ``LiveTokens``."""
        rows = await self._tokens(_PAGE, {"after": after or _LOWEST_ID, "limit": limit})
        token_ids = [row[0] for row in rows]
        return TokensPage(token_ids, token_ids[-1] if len(token_ids) == limit else None)

    async def _tokens(self, statement: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            async with self._database.transaction(timeout_s=COUNT_TIMEOUT_S) as connection:
                return await _rows(connection, statement, values)
        except IbexError as error:
            raise TokensUnavailableError(str(error)) from error

    async def _since(self, connection: AsyncConnection[Any], since: str) -> ChangesRead:
        incarnation, _, snapshot = since.partition("/")
        if not _POSITION.fullmatch(since):
            return ChangesRead(await self._position(connection), None)
        rows = await _rows(connection, _READ, {"snapshot": snapshot, "limit": MAX_CHANGES + 1})
        current, now, in_recovery, reaches_back = rows[0][:4]
        _check(in_recovery=in_recovery)
        if current is None:
            return ChangesRead(await self._position(connection), None)
        is_known = all(kind in _KINDS for *_, org_id, kind, _ in rows if org_id is not None)
        if current != incarnation or not reaches_back or not is_known or len(rows) > MAX_CHANGES:
            return ChangesRead(f"{current}/{now}", None)
        found = [Change(org_id, Kind(kind), token) for *_, org_id, kind, token in rows if org_id is not None]
        return ChangesRead(f"{current}/{now}", found)

    async def _position(self, connection: AsyncConnection[Any]) -> str:
        """Return the current position. Start an incarnation if the database has none."""
        [(incarnation, snapshot, in_recovery)] = await _rows(connection, _NOW, {})
        _check(in_recovery=in_recovery)
        if incarnation is None:
            await connection.execute(_BEGIN_INCARNATION)
            [(incarnation, snapshot, _)] = await _rows(connection, _NOW, {})
        return f"{incarnation}/{snapshot}"


def _check(*, in_recovery: bool) -> None:
    if in_recovery:
        raise ChangeLogUnavailableError("the PostgreSQL server is in recovery; changes are read from a primary only")


async def _rows(connection: AsyncConnection[Any], statement: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(statement.encode(), values)
    return await cursor.fetchall()
