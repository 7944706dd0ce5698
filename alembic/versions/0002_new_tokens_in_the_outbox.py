"""Tokens that were created leave a row in the outbox too: the filter of live tokens must hold them."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from textwrap import dedent

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note creations with the token's id."""
    op.add_column("outbox", sa.Column("new_token", sa.Uuid(), nullable=True))
    op.execute(
        dedent("""
        CREATE FUNCTION note_new_token() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO public.outbox (org_id, kind, new_token) VALUES (NEW.org_id, 'tokens', NEW.id);
          RETURN NULL;
        END $$
        """)
    )
    op.execute("CREATE TRIGGER outbox_new AFTER INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION note_new_token()")


def downgrade() -> None:
    """Forget creations again."""
    op.execute("DROP TRIGGER outbox_new ON tokens")
    op.execute("DROP FUNCTION note_new_token()")
    op.drop_column("outbox", "new_token")
