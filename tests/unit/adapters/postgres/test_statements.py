"""Statements compiled once."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select

from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import organizations


class _Cursor:
    """Records what it is asked to execute."""

    def __init__(self) -> None:
        self.executed: list[tuple[bytes, dict[str, object]]] = []

    async def execute(self, query: bytes, values: dict[str, object]) -> _Cursor:
        """Remember it."""
        self.executed.append((query, values))
        return self


class _Connection:
    """Hands out one recording cursor."""

    def __init__(self) -> None:
        self.only = _Cursor()

    def cursor(self, **_: object) -> _Cursor:
        """Return the cursor."""
        return self.only


async def test_constants_travel_as_parameters_beside_the_callers() -> None:
    """A value never becomes part of a statement's text."""
    connection = _Connection()
    statement = Statement(
        select(organizations.c.id).where(organizations.c.status == "active", organizations.c.id == bindparam("org_id"))
    )
    await statement.run(connection, org_id="x")  # type: ignore[arg-type] # records what psycopg would be given
    [(query, values)] = connection.only.executed
    assert b"active" not in query
    assert values == {"status_1": "active", "org_id": "x"}


async def test_an_insert_sets_every_column() -> None:
    """None is a value like any other: a column that is not given is not silently left to its default."""
    connection = _Connection()
    await Statement(insert(organizations)).run(connection, id=1, rate_limit_rpm=None)  # type: ignore[arg-type] # as above
    [(query, values)] = connection.only.executed
    for column in organizations.columns:
        assert f"%({column.name})s".encode() in query
    assert values == {"id": 1, "rate_limit_rpm": None}
