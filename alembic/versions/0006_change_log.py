"""A log of changes that any number of readers follow, instead of the outbox (ADR 0045)."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from textwrap import dedent
from typing import Final

import sqlalchemy as sa
from alembic import op

from ibex.adapters.postgres.tables import Xid8

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OWN_ROWS: Final = "org_id = NULLIF(current_setting('app.current_org_id', true), '')::uuid"
_LOGGED: Final = (
    ("organizations", "UPDATE", "log_organization_change"),
    ("tokens", "INSERT OR UPDATE OR DELETE", "log_token_change"),
    ("agents", "INSERT OR UPDATE OR DELETE", "log_change"),
    ("directives", "INSERT OR UPDATE OR DELETE", "log_change"),
)
"""Tables whose rows workers cache, and the trigger that logs their changes."""
_FUNCTIONS: Final = {
    "log_organization_change": """
        INSERT INTO public.changes (org_id, kind) VALUES (NEW.id, 'tokens');
        """,
    "log_token_change": """
        INSERT INTO public.changes (org_id, kind, live_token) VALUES (
          COALESCE(NEW.org_id, OLD.org_id),
          'tokens',
          CASE WHEN TG_OP = 'INSERT'
                 OR TG_OP = 'UPDATE' AND NEW.revoked_at IS NULL
                    AND (OLD.revoked_at IS NOT NULL OR NEW.expires_at IS DISTINCT FROM OLD.expires_at)
               THEN NEW.id END);
        """,
    "log_change": """
        INSERT INTO public.changes (org_id, kind) VALUES (COALESCE(NEW.org_id, OLD.org_id), TG_TABLE_NAME);
        """,
}


def upgrade() -> None:
    """Make the log, and drop the outbox with its triggers."""
    _drop_outbox()
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("xid", Xid8(), nullable=False, server_default=sa.text("pg_current_xact_id()")),
        sa.Column("org_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("live_token", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_changes_org_id"),
        sa.CheckConstraint("kind IN ('tokens', 'agents', 'directives')", name="kind"),
    )
    op.create_index("ix_changes_xid", "changes", ["xid"])
    # The snapshots up to which changes have been deleted, or will be an hour later.
    op.create_table(
        "change_snapshots",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("snapshot", sa.Text(), nullable=False, server_default=sa.text("pg_current_snapshot()::text")),
        sa.Column("is_pruned", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_change_snapshots"),
    )
    # PostgreSQL empties an unlogged table in crash recovery and on a promoted standby, where transaction ids may be
    # used again: a position of before cannot resume then.
    op.execute(
        dedent("""
        CREATE UNLOGGED TABLE change_incarnation (
          only_row boolean NOT NULL DEFAULT true,
          value uuid NOT NULL DEFAULT gen_random_uuid(),
          CONSTRAINT pk_change_incarnation PRIMARY KEY (only_row),
          CONSTRAINT ck_change_incarnation_only_row CHECK (only_row)
        )
        """)
    )
    for name, body in _FUNCTIONS.items():
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN{dedent(body)}"
            "  RETURN NULL;\nEND $$"
        )
    for table, events, function in _LOGGED:
        op.execute(f"CREATE TRIGGER change AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
    _secure()


def downgrade() -> None:
    """Make the outbox again, empty."""
    for table, _, _ in _LOGGED:
        op.execute(f"DROP TRIGGER change ON {table}")
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}()")
    for table in ("changes", "change_snapshots", "change_incarnation"):
        op.drop_table(table)
    _make_outbox()


def _secure() -> None:
    op.execute("ALTER TABLE changes ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE changes FORCE ROW LEVEL SECURITY")
    own = f"{_OWN_ROWS} AND kind = 'directives'"
    op.execute(f"CREATE POLICY app_tenant ON changes TO ibex_app USING ({own}) WITH CHECK ({own})")
    op.execute("GRANT INSERT ON changes TO ibex_app")
    op.execute("CREATE POLICY auth_all ON changes TO ibex_auth USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT, DELETE ON changes TO ibex_auth")
    op.execute("GRANT SELECT, INSERT, DELETE, UPDATE (is_pruned) ON change_snapshots TO ibex_auth")
    op.execute("GRANT SELECT, INSERT ON change_incarnation TO ibex_auth")


_OUTBOX_TRIGGERS: Final = (
    ("outbox", "organizations", "UPDATE", "note_organization_change", "tokens"),
    ("outbox", "tokens", "UPDATE", "note_change", "tokens"),
    ("outbox", "agents", "UPDATE", "note_change", "agents"),
    ("outbox", "directives", "INSERT OR UPDATE", "note_change", "directives"),
    ("outbox_new", "agents", "INSERT", "note_change", "agents"),
)


def _drop_outbox() -> None:
    for trigger, table, *_ in (*_OUTBOX_TRIGGERS, ("outbox_new", "tokens")):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for function in ("note_organization_change", "note_change", "note_new_token"):
        op.execute(f"DROP FUNCTION {function}()")
    op.drop_table("outbox")


def _make_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("org_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("new_token", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name="fk_outbox_org_id"),
        sa.CheckConstraint("kind IN ('tokens', 'agents', 'directives')", name="kind"),
    )
    bodies = {
        "note_change": "(org_id, kind) VALUES (NEW.org_id, TG_ARGV[0])",
        "note_organization_change": "(org_id, kind) VALUES (NEW.id, TG_ARGV[0])",
        "note_new_token": "(org_id, kind, new_token) VALUES (NEW.org_id, 'tokens', NEW.id)",
    }
    for function, values in bodies.items():
        op.execute(
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN\n  INSERT INTO public.outbox {values};\n  RETURN NULL;\nEND $$"
        )
    for trigger, table, events, function, kind in _OUTBOX_TRIGGERS:
        op.execute(
            f"CREATE TRIGGER {trigger} AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}('{kind}')"
        )
    op.execute("CREATE TRIGGER outbox_new AFTER INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION note_new_token()")
    op.execute("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE outbox FORCE ROW LEVEL SECURITY")
    own = f"{_OWN_ROWS} AND kind = 'directives'"
    op.execute(f"CREATE POLICY app_tenant ON outbox TO ibex_app USING ({own}) WITH CHECK ({own})")
    op.execute("GRANT INSERT ON outbox TO ibex_app")
    op.execute("CREATE POLICY auth_all ON outbox TO ibex_auth USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT, INSERT, DELETE ON outbox TO ibex_auth")
