"""Tests of the description of the schema."""

from __future__ import annotations

import pytest
from sqlalchemy import DateTime, ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint

from ibex.adapters.postgres.tables import METADATA

TABLES = [pytest.param(table, id=table.name) for table in METADATA.sorted_tables]
TENANT_TABLES = [pytest.param(table, id=table.name) for table in METADATA.sorted_tables if "org_id" in table.columns]


def test_the_schema_has_the_tables_of_the_specification() -> None:
    """These are the tables of tenants and of the change log."""
    names = {table.name for table in METADATA.sorted_tables}
    assert names == {
        "organizations",
        "users",
        "agents",
        "tokens",
        "directives",
        "directive_versions",
        "sessions",
        "checkpoints",
        "changes",
        "change_snapshots",
        "change_incarnation",
    }
    without_tenant = {table.name for table in METADATA.sorted_tables if "org_id" not in table.columns}
    assert without_tenant == {"organizations", "change_snapshots", "change_incarnation"}


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_every_foreign_key_between_tenant_tables_includes_the_organization(table: Table) -> None:
    """Foreign-key checks ignore row-level security, so the key itself must exclude another tenant's row."""
    for constraint in table.constraints:
        if isinstance(constraint, ForeignKeyConstraint):
            pairs = {(element.parent.name, element.column.name) for element in constraint.elements}
            expected = ("org_id", "id" if constraint.referred_table.name == "organizations" else "org_id")
            assert expected in pairs, constraint.name


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_no_index_that_a_key_check_could_use_begins_with_the_organization(table: Table) -> None:
    """PostgreSQL may choose such an index while the table is small; see the docstring of the module."""
    referenced = {
        element.column.table.name
        for other in METADATA.tables.values()
        for constraint in other.foreign_key_constraints
        for element in constraint.elements
    }
    whole = [index for index in table.indexes if index.dialect_options["postgresql"]["where"] is None]
    firsts = {next(iter(index.columns)).name for index in whole}
    firsts |= {
        next(iter(constraint.columns)).name
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint | PrimaryKeyConstraint)
    }
    assert table.name not in referenced or "org_id" not in firsts


@pytest.mark.parametrize("table", TABLES)
def test_every_time_has_a_time_zone(table: Table) -> None:
    """Another server would interpret a time without a time zone differently."""
    for column in table.columns:
        assert not isinstance(column.type, DateTime) or column.type.timezone, column
