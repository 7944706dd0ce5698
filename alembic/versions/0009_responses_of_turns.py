"""Response id and directive version of a checkpoint, and an index to find a response by its id."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_INDEX: Final = "ix_checkpoints_org_id_response_id"


def upgrade() -> None:
    """Add the columns, NULL in existing rows, and the index."""
    op.add_column("checkpoints", sa.Column("response_id", sa.Text(), nullable=True))
    op.add_column("checkpoints", sa.Column("directive_version_id", sa.Uuid(), nullable=True))
    op.create_index(
        _INDEX, "checkpoints", ["org_id", "response_id"], postgresql_where=sa.text("response_id IS NOT NULL")
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index(_INDEX, "checkpoints")
    op.drop_column("checkpoints", "directive_version_id")
    op.drop_column("checkpoints", "response_id")
