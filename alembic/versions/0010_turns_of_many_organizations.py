"""A function that records turns of many organizations in one statement, and the role with the right to that alone."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from textwrap import dedent
from typing import Final

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FUNCTION: Final = "record_turns(jsonb, boolean)"
# The columns of a checkpoint that its turn gives as they are. A later migration that adds one replaces the function.
_GIVEN: Final = {
    "id": "uuid",
    "agent_id": "uuid",
    "messages_hash": "text",
    "completion_hash": "text",
    "input_tokens": "integer",
    "output_tokens": "integer",
    "model": "text",
    "provider": "text",
    "latency_ms": "bigint",
    "provider_request_id": "text",
    "is_streaming": "boolean",
    "is_complete": "boolean",
    "created_at": "timestamptz",
    "token_id": "uuid",
    "user_id": "uuid",
    "operation": "text",
    "response_id": "text",
    "directive_version_id": "uuid",
}
_NAMES: Final = ", ".join(_GIVEN)
_TYPED: Final = ", ".join(f"{name} {kind}" for name, kind in _GIVEN.items())
_TOTALS: Final = (
    "status, turn_count, total_input_tokens, total_output_tokens, total_latency_ms, updated_at, completed_at"
)
_NEW_SESSION: Final = f"id, org_id, agent_id, external_id, model, provider, directive_version_id, created_at, {_TOTALS}"
_SESSION_RIGHTS: Final = f"SELECT (id, org_id, {_TOTALS}), INSERT ({_NEW_SESSION}), UPDATE ({_TOTALS})"
_CHECKPOINT_RIGHTS: Final = (
    f"SELECT (id, org_id, request_id), INSERT (session_id, org_id, turn_index, request_id, {_NAMES})"
)
_POLICIES: Final = {
    "recorder_sees": "sessions FOR SELECT TO ibex_recorder USING (true)",
    "recorder_opens": "sessions FOR INSERT TO ibex_recorder WITH CHECK (status IN ('active', 'completed'))",
    "recorder_adds": "sessions FOR UPDATE TO ibex_recorder USING (true) WITH CHECK (status <> 'abandoned')",
    "recorder_sees_turns": "checkpoints FOR SELECT TO ibex_recorder USING (true)",
    "recorder_records": "checkpoints FOR INSERT TO ibex_recorder WITH CHECK (true)",
}

# Existing rows are looked up key by key (LATERAL, LIMIT), because a join may read all rows of an organization.
_RECORD: Final = f"""
  WITH incoming AS (
    SELECT r.*, (r.session->>'id')::uuid AS session_id, r.session->>'handle' AS handle,
           (r.session->>'ends')::boolean AS ends
    FROM ROWS FROM (jsonb_to_recordset(batch) AS (
      session jsonb, org_id uuid, request_id uuid, {_TYPED}
    )) WITH ORDINALITY AS r (session, org_id, request_id, {_NAMES}, position)
    WHERE r.org_id IN (SELECT unnest(locked))
  ), fresh AS (
    SELECT i.*,
           row_number() OVER (PARTITION BY i.org_id, i.session_id ORDER BY i.position) AS turn,
           count(*) OVER (PARTITION BY i.org_id, i.session_id) AS turns,
           row_number() OVER (PARTITION BY i.org_id, i.request_id ORDER BY i.position) > 1 OR taken.yes IS NOT NULL
             AS request_id_taken
    FROM incoming i
    LEFT JOIN LATERAL (
      SELECT true AS yes FROM public.checkpoints c WHERE c.id = i.id AND c.org_id = i.org_id LIMIT 1
    ) known ON true
    LEFT JOIN LATERAL (
      SELECT true AS yes FROM public.checkpoints c WHERE c.request_id = i.request_id AND c.org_id = i.org_id LIMIT 1
    ) taken ON true
    WHERE known.yes IS NULL
  ), touched AS (
    INSERT INTO public.sessions AS s ({_NEW_SESSION})
    SELECT f.session_id, f.org_id, f.agent_id, f.handle,
           (array_agg(f.model ORDER BY f.position))[1],
           (array_agg(f.provider ORDER BY f.position))[1],
           (array_agg(f.directive_version_id ORDER BY f.position))[1],
           min(f.created_at),
           CASE WHEN bool_or(f.ends) THEN 'completed' ELSE 'active' END,
           count(*), coalesce(sum(f.input_tokens), 0), coalesce(sum(f.output_tokens), 0), sum(f.latency_ms),
           max(f.created_at), min(f.created_at) FILTER (WHERE f.ends)
    FROM fresh f
    GROUP BY f.org_id, f.session_id, f.agent_id, f.handle
    ORDER BY f.org_id, f.session_id
    ON CONFLICT (id, org_id) DO UPDATE SET
      status = CASE
        WHEN excluded.status = 'completed' THEN 'completed'
        WHEN s.status = 'abandoned' THEN 'active'
        ELSE s.status
      END,
      turn_count = s.turn_count + excluded.turn_count,
      total_input_tokens = s.total_input_tokens + excluded.total_input_tokens,
      total_output_tokens = s.total_output_tokens + excluded.total_output_tokens,
      total_latency_ms = s.total_latency_ms + excluded.total_latency_ms,
      updated_at = greatest(s.updated_at, excluded.updated_at),
      completed_at = coalesce(s.completed_at, excluded.completed_at)
    RETURNING s.id, s.org_id, s.turn_count
  )
  INSERT INTO public.checkpoints (session_id, org_id, turn_index, request_id, {_NAMES})
  SELECT f.session_id, f.org_id, t.turn_count - f.turns + f.turn - 1,
         CASE WHEN f.request_id_taken THEN f.id ELSE f.request_id END,
         {", ".join(f"f.{name}" for name in _GIVEN)}
  FROM fresh f JOIN touched t ON t.id = f.session_id AND t.org_id = f.org_id;
"""  # noqa: S608 - only names of columns


def upgrade() -> None:
    """Make the role, its rights, and the function that runs as it. Rights of ``ibex_app`` stay, for an older IBEX."""
    op.execute(
        dedent("""
        DO $$ BEGIN
          IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ibex_recorder') THEN
            CREATE ROLE ibex_recorder NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
          END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
          NULL; -- another database of this server is migrated at the same moment
        END $$
        """)
    )
    op.execute("GRANT USAGE ON SCHEMA public TO ibex_recorder")
    op.execute(f"GRANT {_SESSION_RIGHTS} ON sessions TO ibex_recorder")
    op.execute(f"GRANT {_CHECKPOINT_RIGHTS} ON checkpoints TO ibex_recorder")
    for name, policy in _POLICIES.items():
        op.execute(f"CREATE POLICY {name} ON {policy}")
    _make_function()


def downgrade() -> None:
    """Drop all but the role: it is the server's, and another database may use it."""
    op.execute("GRANT ibex_recorder TO CURRENT_USER")
    op.execute(f"DROP FUNCTION {_FUNCTION}")
    op.execute("REVOKE ibex_recorder FROM CURRENT_USER")
    for name, policy in _POLICIES.items():
        op.execute(f"DROP POLICY {name} ON {policy.split()[0]}")
    op.execute(f"REVOKE {_CHECKPOINT_RIGHTS} ON checkpoints FROM ibex_recorder")
    op.execute(f"REVOKE {_SESSION_RIGHTS} ON sessions FROM ibex_recorder")
    op.execute("REVOKE USAGE ON SCHEMA public FROM ibex_recorder")


def _make_function() -> None:
    """Make the function and give it to the role. The owner is a member of the role for that moment only.

    Planner settings: PostgreSQL expects a handful of rows in a batch, and would compare each of them with each session
    in a nested loop. The LATERAL lookups still use loops, whose estimated cost would start the JIT compiler.
    """
    op.execute(
        f"""
CREATE FUNCTION record_turns(batch jsonb, waits boolean) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
  organizations uuid[] := ARRAY(
    SELECT DISTINCT (turn->>'org_id')::uuid FROM jsonb_array_elements(batch) AS turn ORDER BY 1
  );
  locked uuid[];
  contended uuid[];
BEGIN
  -- One transaction at a time records turns of an organization, because each looks up existing rows and assigns turn
  -- numbers and request ids. A transaction waits for a lock only while it holds none, so nothing waits for two.
  LOOP
    SELECT coalesce(array_agg(org) FILTER (WHERE is_free), '{{}}'),
           coalesce(array_agg(org) FILTER (WHERE NOT is_free), '{{}}')
    INTO locked, contended
    FROM (
      SELECT org, pg_try_advisory_xact_lock(hashtextextended('ibex.checkpoints:' || org, 0)) AS is_free
      FROM unnest(organizations) AS org
    ) AS tried;
    EXIT WHEN locked <> '{{}}' OR contended = '{{}}' OR NOT waits;
    PERFORM pg_advisory_xact_lock(hashtextextended('ibex.checkpoints:' || contended[1], 0));
  END LOOP;
  -- This statement has a later snapshot than the locks, and so sees all that their last holders recorded.
{_RECORD}
  RETURN contended;
END $$
        """  # noqa: S608 - only the constant above
    )
    op.execute(f"REVOKE ALL ON FUNCTION {_FUNCTION} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {_FUNCTION} TO ibex_app")
    op.execute("GRANT ibex_recorder TO CURRENT_USER")
    op.execute("GRANT CREATE ON SCHEMA public TO ibex_recorder")
    op.execute(f"ALTER FUNCTION {_FUNCTION} OWNER TO ibex_recorder")
    op.execute("REVOKE CREATE ON SCHEMA public FROM ibex_recorder")
    op.execute("REVOKE ibex_recorder FROM CURRENT_USER")
