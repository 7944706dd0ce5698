"""Token, user and operation of a checkpoint."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COLUMNS: Final = ("token_id", "user_id", "operation")


def upgrade() -> None:
    """Add the columns; what an IBEX of before records, or has recorded, is a chat completion of an unknown token."""
    for name in ("token_id", "user_id"):
        op.add_column("checkpoints", sa.Column(name, sa.Uuid(), nullable=True))
    op.add_column("checkpoints", sa.Column("operation", sa.Text(), nullable=False, server_default="chat.completions"))


def downgrade() -> None:
    """Drop the columns."""
    for name in _COLUMNS:
        op.drop_column("checkpoints", name)
