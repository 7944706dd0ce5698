"""Tests of the migration files. tests/integration/test_clickhouse_migrate.py applies them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.migrate import Migration, MigrationError, migrate, migrations
from ibex.adapters.clickhouse.trace_queries import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path


def test_the_files_are_numbered_from_one() -> None:
    """Each file has a version, and there is no gap."""
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_the_files_create_the_columns_that_are_written() -> None:
    """Names and types are in the same order. ``inserted_at`` is written by ClickHouse only."""
    first, *later = (migration.text for migration in migrations())
    found = dict(re.findall(r"^    (\w+) +(\S.*?),?$", first, re.MULTILINE))
    for text in later:
        found |= dict(re.findall(r"ADD COLUMN IF NOT EXISTS (\w+) ([^\s;]+)", text))
    found.pop("inserted_at")
    assert list(found.items()) == list(COLUMNS.items())


def test_a_file_is_split_into_statements() -> None:
    """They end with a semicolon at the end of a line. Comments and white space are skipped."""
    migration = Migration("0001_a", "-- first; really\nCREATE a;\n\nCREATE b\n(\n  'x;y'\n) ; \n-- end\n")
    assert migration.statements == ["CREATE a", "CREATE b\n(\n  'x;y'\n)"]


def test_a_checksum_is_of_the_whole_file() -> None:
    """It covers any change, including comments."""
    assert Migration("0001_a", "CREATE a;").checksum != Migration("0001_a", "CREATE a; ").checksum


@pytest.mark.parametrize("names", [["0002_b"], ["0001_a", "0003_c"], ["0001_a", "0001_b"], ["first"]])
def test_a_gap_or_a_wrong_name_is_refused(tmp_path: Path, names: list[str]) -> None:
    """No migration is applied then."""
    for name in names:
        (tmp_path / f"{name}.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"its name must be \d{4}_"):
        migrations(tmp_path)


def test_an_invalid_url_is_refused() -> None:
    """It is an invalid value, not an outage."""
    with pytest.raises(ValueError, match="ClickHouse URL"):
        migrate("tcp://db")
