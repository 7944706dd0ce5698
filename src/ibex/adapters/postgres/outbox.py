"""The outbox in PostgreSQL, as the role ``ibex_auth``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, any_, bindparam, delete, select
from sqlalchemy.dialects.postgresql import ARRAY

from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import outbox, tokens
from ibex.domain.announce import Change, OutboxUnavailableError
from ibex.domain.errors import IbexError
from ibex.domain.freshness import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from ibex.adapters.postgres.database import Database

TIMEOUT_S: Final = 1.0
"""For a connection, and again for the statement: together they are what an ``Outbox`` promises."""
_PENDING = Statement(
    select(outbox.c.id, outbox.c.org_id, outbox.c.kind, outbox.c.new_token)
    .order_by(outbox.c.id)
    .limit(bindparam("most"))
)
_FORGET = Statement(delete(outbox).where(outbox.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger())))))
_LIVE_TOKENS = Statement(select(tokens.c.id).where(tokens.c.revoked_at.is_(None)))


class PostgresOutbox:
    """An ``Outbox``.

    Rows are read without being locked or passed over: who does not see a row that another replica is announcing at the
    moment would vouch for what is not announced yet.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, limit: int) -> Sequence[Change]:
        """Return changes, oldest first; see ``Outbox``."""
        rows = await self._rows(_PENDING, most=limit)
        return [Change(row["id"], row["org_id"], Kind(row["kind"]), row["new_token"]) for row in rows]

    async def forget(self, ids: Iterable[int]) -> None:
        """Remove changes; see ``Outbox``."""
        await self._rows(_FORGET, ids=list(ids))

    async def live_tokens(self) -> Sequence[UUID]:
        """Return the ids of all tokens that are not revoked; see ``Outbox``."""
        return [row["id"] for row in await self._rows(_LIVE_TOKENS, timeout_s=None)]

    async def _rows(
        self, statement: Statement, *, timeout_s: float | None = TIMEOUT_S, **values: object
    ) -> list[dict[str, Any]]:
        try:
            async with self._database.transaction(timeout_s=timeout_s) as connection:
                cursor = await statement.run(connection, **values)
                return await cursor.fetchall() if cursor.description else []
        except IbexError as error:
            raise OutboxUnavailableError(str(error)) from error
