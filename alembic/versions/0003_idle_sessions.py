"""A function that abandons idle sessions of every organization, and the role with the right to that alone."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from textwrap import dedent
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FUNCTION: Final = "abandon_idle_sessions(timestamptz, integer)"
_RIGHTS: Final = "SELECT (id, org_id, status, created_at, updated_at), UPDATE (status)"


def upgrade() -> None:
    """Make the role, what it may do, and the function that runs as it."""
    # Nothing that a turn changes is in it but the status, once in a session's life.
    op.create_index("ix_sessions_created_at", "sessions", ["created_at"], postgresql_where=sa.text("status = 'active'"))
    op.execute(
        dedent("""
        DO $$ BEGIN
          IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ibex_sweeper') THEN
            CREATE ROLE ibex_sweeper NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
          END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
          NULL; -- another database of this server is migrated at the same moment
        END $$
        """)
    )
    op.execute("GRANT USAGE ON SCHEMA public TO ibex_sweeper")
    op.execute(f"GRANT {_RIGHTS} ON sessions TO ibex_sweeper")
    op.execute(
        "CREATE POLICY sweeper_sees ON sessions FOR SELECT TO ibex_sweeper USING (status IN ('active', 'abandoned'))"
    )
    op.execute(
        "CREATE POLICY sweeper_abandons ON sessions FOR UPDATE TO ibex_sweeper"
        " USING (status = 'active') WITH CHECK (status = 'abandoned')"
    )
    _make_function()


def downgrade() -> None:
    """Drop all but the role: it is the server's, and another database may use it."""
    op.execute("GRANT ibex_sweeper TO CURRENT_USER")
    op.execute(f"DROP FUNCTION {_FUNCTION}")
    op.execute("REVOKE ibex_sweeper FROM CURRENT_USER")
    op.execute("DROP POLICY sweeper_abandons ON sessions")
    op.execute("DROP POLICY sweeper_sees ON sessions")
    op.execute(f"REVOKE {_RIGHTS} ON sessions FROM ibex_sweeper")
    op.execute("REVOKE USAGE ON SCHEMA public FROM ibex_sweeper")
    op.drop_index("ix_sessions_created_at", "sessions")


def _make_function() -> None:
    """Hand the function to the role: whoever makes it must be a member for that moment, and no longer.

    Whatever it is called with, it leaves alone what had a turn within a minute, and takes no more than 10,000 sessions.
    """
    op.execute(
        dedent("""
        CREATE FUNCTION abandon_idle_sessions(idle_since timestamptz, most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
          until timestamptz := least(idle_since, now() - interval '1 minute');
          found integer;
        BEGIN
          IF NOT pg_try_advisory_xact_lock(hashtextextended('ibex.abandon_idle_sessions', 0)) THEN
            RETURN NULL;
          END IF;
          WITH idle AS MATERIALIZED ( -- looked for once: within a loop it would be, each time, for others
            SELECT id, org_id FROM public.sessions
            WHERE status = 'active' AND created_at < until AND updated_at < until
            ORDER BY created_at LIMIT least(most, 10000) FOR UPDATE SKIP LOCKED
          )
          UPDATE public.sessions s SET status = 'abandoned' FROM idle
          WHERE s.id = idle.id AND s.org_id = idle.org_id;
          GET DIAGNOSTICS found = ROW_COUNT;
          RETURN found;
        END $$
        """)
    )
    op.execute(f"REVOKE ALL ON FUNCTION {_FUNCTION} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {_FUNCTION} TO ibex_app")
    op.execute("GRANT ibex_sweeper TO CURRENT_USER")
    op.execute("GRANT CREATE ON SCHEMA public TO ibex_sweeper")
    op.execute(f"ALTER FUNCTION {_FUNCTION} OWNER TO ibex_sweeper")
    op.execute("REVOKE CREATE ON SCHEMA public FROM ibex_sweeper")
    op.execute("REVOKE ibex_sweeper FROM CURRENT_USER")
