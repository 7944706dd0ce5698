"""Migrations expand the schema before they contract it, so that two versions can run side by side (ADR 0060)."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BEFORE_THE_RULE: Final = {"postgres": 10, "clickhouse": 4}
"""The last migrations that were written before the rule."""
CONTRACTING: Final = re.compile(
    r"\bdrop_(table|column|constraint|index)\b|\brename_table\b|nullable=False\b(?!.*server_default)|new_column_name|type_="
    r"|\bDROP\s+(TABLE|COLUMN|FUNCTION|VIEW)\b|\bRENAME\b|\bSET\s+NOT\s+NULL\b|\bMODIFY\s+COLUMN\b",
    re.IGNORECASE,
)


def expansions() -> list[tuple[str, str]]:
    """Return the name and the text of each migration that must not contract."""
    found = []
    for path in sorted((ROOT / "alembic" / "versions").glob("*.py")):
        tree = ast.parse(path.read_text())
        contracts = any(isinstance(node, ast.Name) and node.id == "CONTRACTS" for node in ast.walk(tree))
        if int(path.name[:4]) > BEFORE_THE_RULE["postgres"] and not contracts:
            (upgrade,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "upgrade")
            found.append((path.name, ast.unparse(upgrade)))
    for path in sorted((ROOT / "src" / "ibex" / "adapters" / "clickhouse" / "migrations").glob("*.sql")):
        text = path.read_text()
        if int(path.name[:4]) > BEFORE_THE_RULE["clickhouse"] and "-- CONTRACTS" not in text:
            found.append((path.name, text))
    return found


def test_a_migration_expands_unless_it_says_that_it_contracts() -> None:
    """A migration that removes what only older versions used has ``CONTRACTS``, with the last version that used it."""
    assert [name for name, text in expansions() if CONTRACTING.search(text)] == []


@pytest.mark.parametrize(
    ("statement", "contracts"),
    [
        ("op.add_column('t', sa.Column('c', sa.Text(), nullable=True))", False),
        ("op.add_column('t', sa.Column('c', sa.Text(), nullable=False, server_default='x'))", False),
        ("op.add_column('t', sa.Column('c', sa.Text(), nullable=False))", True),
        ("op.drop_column('t', 'c')", True),
        ("op.alter_column('t', 'c', new_column_name='d')", True),
        ("op.execute('DROP TABLE t')", True),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS c UInt8", False),
        ("ALTER TABLE t MODIFY COLUMN c UInt8", True),
    ],
)
def test_the_rule_recognizes_what_contracts(statement: str, *, contracts: bool) -> None:
    """An older version would miss it, or could not write without it."""
    assert bool(CONTRACTING.search(statement)) is contracts
