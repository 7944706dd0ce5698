"""Tests of compiled statements."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select

from ibex.adapters.postgres.statements import Statement
from ibex.adapters.postgres.tables import organizations


class _Cursor:
    """A cursor that records what it executes."""

    def __init__(self) -> None:
        self.executed: list[tuple[bytes, dict[str, object]]] = []

    async def execute(self, query: bytes, values: dict[str, object]) -> _Cursor:
        """Record the statement and its values."""
        self.executed.append((query, values))
        return self


class _Connection:
    """A connection with one recording cursor."""

    def __init__(self) -> None:
        self.only = _Cursor()

    def cursor(self, **_: object) -> _Cursor:
        """Return the cursor."""
        return self.only


async def test_constants_are_passed_as_parameters_with_the_callers_values() -> None:
    """No value becomes part of a statement's text."""
    connection = _Connection()
    statement = Statement(
        select(organizations.c.id).where(organizations.c.status == "active", organizations.c.id == bindparam("org_id"))
    )
    await statement.run(connection, org_id="x")  # type: ignore[arg-type] # records the arguments for psycopg
    [(query, values)] = connection.only.executed
    assert b"active" not in query
    assert values == {"status_1": "active", "org_id": "x"}


async def test_an_insert_sets_every_column() -> None:
    """None counts as a value: a missing value must not silently become the column's default."""
    connection = _Connection()
    await Statement(insert(organizations)).run(connection, id=1, rate_limit_rpm=None)  # type: ignore[arg-type] # as above
    [(query, values)] = connection.only.executed
    for column in organizations.columns:
        assert f"%({column.name})s".encode() in query
    assert values == {"id": 1, "rate_limit_rpm": None}
