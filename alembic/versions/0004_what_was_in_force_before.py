"""Which version of a directive was in force before the one that is (ADR 0031)."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMN: Final = "previous_version_id"
_KEY: Final = f"fk_directives_{_COLUMN}_agent_id_org_id"


def upgrade() -> None:
    """Add the column, empty: what was in force before this moment was not noted."""
    op.add_column("directives", sa.Column(_COLUMN, sa.Uuid(), nullable=True))
    op.create_foreign_key(
        _KEY, "directives", "directive_versions", [_COLUMN, "agent_id", "org_id"], ["id", "agent_id", "org_id"]
    )
    op.execute(f"GRANT UPDATE ({_COLUMN}) ON directives TO ibex_app")


def downgrade() -> None:
    """Drop the column, and with it the right."""
    op.drop_constraint(_KEY, "directives", type_="foreignkey")
    op.drop_column("directives", _COLUMN)
