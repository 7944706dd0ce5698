"""Statements that SQLAlchemy Core compiles once, at import, and psycopg executes as text.

This keeps the schema in one place and all connections in one bounded pool. The request path does not pass through the
checkout, greenlet and result layers of a SQLAlchemy engine.
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
    """A compiled statement. Its constants are passed as parameters."""

    def __init__(self, element: ClauseElement, columns: Sequence[str] | None = None) -> None:
        """Compile the statement. ``columns`` are the columns that an INSERT sets; by default all of the table."""
        compiled = element.compile(dialect=_DIALECT, column_keys=columns)
        self._text = str(compiled).encode()
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    async def run(self, connection: AsyncConnection[Any], **values: object) -> AsyncCursor[DictRow]:
        """Execute the statement with these parameters. Rows are dictionaries. Raises ``psycopg.Error``."""
        cursor = connection.cursor(row_factory=dict_row)
        return await cursor.execute(self._text, {**self._constants, **values})
