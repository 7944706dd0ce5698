"""Add created agents to the outbox, because proxies cache that an organization has no such agent."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Include creations in the outbox."""
    op.execute("CREATE TRIGGER outbox_new AFTER INSERT ON agents FOR EACH ROW EXECUTE FUNCTION note_change('agents')")


def downgrade() -> None:
    """Exclude creations from the outbox again."""
    op.execute("DROP TRIGGER outbox_new ON agents")
