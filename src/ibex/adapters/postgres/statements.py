"""SQLAlchemy Core says what a statement is, once, at import; psycopg executes the text that comes of it.

That keeps the schema in one place and one bounded pool under everything, without an engine's own checkout, greenlet and
result layers on the request path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.rows import DictRow, dict_row
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection, AsyncCursor
    from sqlalchemy import ClauseElement

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call] # SQLAlchemy's dialects have no annotated constructor


class Statement:
    """A compiled statement; constants that it holds travel along as parameters."""

    def __init__(self, element: ClauseElement, columns: Sequence[str] | None = None) -> None:
        """Compile; ``columns`` names the columns that an INSERT sets, all of the table's by default."""
        compiled = element.compile(dialect=_DIALECT, column_keys=columns)
        self._text = str(compiled).encode()
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    async def run(self, connection: AsyncConnection[Any], **values: object) -> AsyncCursor[DictRow]:
        """Execute with these parameters; rows come as dictionaries. Raises ``psycopg.Error``."""
        cursor = connection.cursor(row_factory=dict_row)
        return await cursor.execute(self._text, {**self._constants, **values})
