"""Only roles with a right of their own create objects in the schema ``public``."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the right from PUBLIC. A database that was made by PostgreSQL 14 or older has it, a newer one has not."""
    op.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def downgrade() -> None:
    """Leave the schema as it is: no version of IBEX needs the right, and most databases never had it."""
