"""The statements with which ``ibex migrate`` creates the tables of a cluster: `make clickhouse-ddl` regenerates them.

No test runs them, because the ClickHouse engine of the tests has no Keeper. The file shows a reviewer what changes
for a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ibex.adapters.clickhouse.layout import Layout
from ibex.adapters.clickhouse.migrate import migrations

FILE: Final = Path(__file__).parents[1] / "cases" / "clickhouse" / "cluster.sql"
LAYOUT: Final = Layout("ibex", "main")


def cluster_statements() -> list[str]:
    """Return the statements of a first migration, in order, without those that record each applied file."""
    rendered = [LAYOUT.create_database, LAYOUT.create_ledger]
    for migration in migrations():
        for statement in migration.statements:
            rendered += LAYOUT.render(statement)
    return rendered


def as_file(statements: list[str]) -> str:
    """Return the text of the file with these statements."""
    return "".join(f"{statement};\n\n" for statement in statements)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(as_file(cluster_statements()))
