"""The injection mode of each version of a directive, so that a rollback restores it with the text."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES: Final = ("directives", "directive_versions")


def upgrade() -> None:
    """Add the column, and fill it with the mode in which all versions of a directive are injected until now.

    It stays nullable: an older IBEX that runs beside this one during an upgrade adds versions without it.
    """
    op.add_column("directive_versions", sa.Column("injection_mode", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_directive_versions_injection_mode"),
        "directive_versions",
        "injection_mode IN ('system_first', 'system_append', 'user_prepend')",
    )
    for table in _TABLES:  # forced row security hides all rows from the owner, too
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE directive_versions DISABLE TRIGGER append_only")
    op.execute(
        "UPDATE directive_versions SET injection_mode = directives.injection_mode FROM directives"
        " WHERE directives.agent_id = directive_versions.agent_id AND directives.org_id = directive_versions.org_id"
    )
    op.execute("ALTER TABLE directive_versions ENABLE TRIGGER append_only")
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("directive_versions", "injection_mode")
