"""Identity, directives, sessions and the outbox, with roles and row-level security."""

# ruff: noqa: INP001 - a folder of scripts that Alembic loads by path, no package

from __future__ import annotations

from textwrap import dedent
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROLES: Final = ("ibex_app", "ibex_auth")
_TABLES: Final = (
    "organizations",
    "users",
    "agents",
    "tokens",
    "directives",
    "directive_versions",
    "sessions",
    "checkpoints",
    "outbox",
)
# What ibex_app may touch, and only the rows of the organization that its transaction is bound to.
_APP_RIGHTS: Final = {
    "directives": "SELECT, INSERT, UPDATE (injection_mode, is_active, active_version_id, updated_at)",
    "directive_versions": "SELECT, INSERT",
    "sessions": "SELECT, INSERT, UPDATE (status, turn_count, total_input_tokens, total_output_tokens,"
    " total_latency_ms, last_extracted_turn, updated_at, completed_at, deleted_at)",
    "checkpoints": "SELECT, INSERT",
    "outbox": "INSERT",
}
# What ibex_auth may touch, of every organization: it is who says to which one a token belongs.
_AUTH_RIGHTS: Final = {
    "organizations": "SELECT, INSERT, UPDATE (name, status, rate_limit_rpm)",
    "users": "SELECT, INSERT",
    "agents": "SELECT, INSERT, UPDATE (name, status)",
    "tokens": "SELECT, INSERT, UPDATE (revoked_at)",
    "outbox": "SELECT, INSERT, DELETE",
}
_OWN_ROWS: Final = "org_id = NULLIF(current_setting('app.current_org_id', true), '')::uuid"
# Whose change makes which cached entries doubtful. A token's entry holds its organization's status and limit.
_NOTED_CHANGES: Final = (
    ("organizations", "UPDATE", "id", "tokens"),
    ("tokens", "UPDATE", "org_id", "tokens"),
    ("agents", "UPDATE", "org_id", "agents"),
    ("directives", "INSERT OR UPDATE", "org_id", "directives"),
)
_NEVER_CHANGED: Final = ("checkpoints", "directive_versions")
_SHA256: Final = "{} ~ '^[0-9a-f]{{64}}$'"


def upgrade() -> None:
    """Make everything."""
    _make_roles()
    _make_organizations()
    _make_agents()
    _make_directives()
    _make_sessions()
    _make_checkpoints()
    _make_outbox()
    _refuse_changes()
    _note_changes()
    _secure()


def downgrade() -> None:
    """Drop everything but the two roles: they are the server's, and another database may use them."""
    op.drop_constraint("fk_directives_active_version_id_agent_id_org_id", "directives", type_="foreignkey")
    for table in ("outbox", "checkpoints", "sessions", "directive_versions", "directives", "tokens", "agents", "users"):
        op.drop_table(table)
    op.drop_table("organizations")
    op.execute("DROP FUNCTION note_organization_change()")
    op.execute("DROP FUNCTION note_change()")
    op.execute("DROP FUNCTION refuse_change()")
    op.execute(f"REVOKE USAGE ON SCHEMA public FROM {', '.join(_ROLES)}")


def _make_roles() -> None:
    for role in _ROLES:
        op.execute(
            dedent(f"""
            DO $$ BEGIN
              IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
              END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
              NULL; -- another database of this server is migrated at the same moment
            END $$
            """)
        )


def _uuid(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Uuid(), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _bigint(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _flag(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _time(name: str, *, nullable: bool = False, now: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _references(table: str, target: str, *columns: str, key: tuple[str, ...] = ("id", "org_id")) -> sa.Constraint:
    name = f"fk_{table}_{'_'.join(columns)}"
    return sa.ForeignKeyConstraint(columns, [f"{target}.{column}" for column in key], name=name)


def _of_organization(table: str) -> sa.Constraint:
    return _references(table, "organizations", "org_id", key=("id",))


def _check(table: str, column: str, condition: str) -> sa.Constraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{column}"))


def _unique(table: str, *columns: str) -> sa.Constraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def _make_organizations() -> None:
    op.create_table(
        "organizations",
        _uuid("id"),
        _text("name"),
        _text("status"),
        _integer("rate_limit_rpm", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
        _unique("organizations", "name"),
        _check("organizations", "status", "status IN ('active', 'suspended')"),
        _check("organizations", "rate_limit_rpm", "rate_limit_rpm >= 0"),
    )
    op.create_table(
        "users",
        _uuid("id"),
        _uuid("org_id"),
        _text("email"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        _unique("users", "id", "org_id"),
        _unique("users", "email", "org_id"),
        _of_organization("users"),
    )


def _make_agents() -> None:
    op.create_table(
        "agents",
        _uuid("id"),
        _uuid("org_id"),
        _text("name"),
        _text("status"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        _unique("agents", "id", "org_id"),
        _unique("agents", "name", "org_id"),
        _of_organization("agents"),
        _check("agents", "status", "status IN ('active', 'paused', 'suspended', 'archived')"),
    )
    op.create_table(
        "tokens",
        _uuid("id"),
        _uuid("org_id"),
        _text("name"),
        _bigint("permissions"),
        _text("key_id"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _uuid("user_id", nullable=True),
        _uuid("agent_id", nullable=True),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        _of_organization("tokens"),
        _references("tokens", "users", "user_id", "org_id"),
        _references("tokens", "agents", "agent_id", "org_id"),
        _check("tokens", "permissions", f"permissions BETWEEN 0 AND {(1 << 56) - 1}"),
        _check("tokens", "digest", "octet_length(digest) = 32"),
    )
    op.create_index("ix_tokens_org_id_created_at", "tokens", ["org_id", "created_at"])


def _make_directives() -> None:
    version_key = ("id", "agent_id", "org_id")
    op.create_table(
        "directives",
        _uuid("agent_id"),
        _uuid("org_id"),
        _text("injection_mode"),
        _flag("is_active"),
        _uuid("active_version_id"),
        _time("created_at", now=True),
        _time("updated_at", now=True),
        sa.PrimaryKeyConstraint("agent_id", "org_id", name="pk_directives"),
        _references("directives", "agents", "agent_id", "org_id"),
        _check("directives", "injection_mode", "injection_mode IN ('system_first', 'system_append', 'user_prepend')"),
    )
    op.create_table(
        "directive_versions",
        _uuid("id"),
        _uuid("agent_id"),
        _uuid("org_id"),
        _integer("number"),
        _text("text"),
        _text("sha256"),
        _text("author"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_directive_versions"),
        _unique("directive_versions", *version_key),
        _unique("directive_versions", "agent_id", "org_id", "number"),
        _references("directive_versions", "directives", "agent_id", "org_id", key=("agent_id", "org_id")),
        _check("directive_versions", "text", "octet_length(text) BETWEEN 1 AND 32768"),
        _check("directive_versions", "sha256", _SHA256.format("sha256")),
        _check("directive_versions", "number", "number >= 1"),
    )
    op.create_foreign_key(
        "fk_directives_active_version_id_agent_id_org_id",
        "directives",
        "directive_versions",
        ["active_version_id", "agent_id", "org_id"],
        list(version_key),
        deferrable=True,
        initially="DEFERRED",
    )


def _make_sessions() -> None:
    op.create_table(
        "sessions",
        _uuid("id"),
        _uuid("org_id"),
        _uuid("agent_id"),
        _text("external_id"),
        _text("status"),
        _text("model"),
        _text("provider"),
        _uuid("directive_version_id", nullable=True),
        _integer("turn_count"),
        _bigint("total_input_tokens"),
        _bigint("total_output_tokens"),
        _bigint("total_latency_ms"),
        _integer("last_extracted_turn", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("completed_at", nullable=True),
        _time("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id", "org_id", name="pk_sessions"),
        _unique("sessions", "agent_id", "external_id", "org_id"),
        _references("sessions", "agents", "agent_id", "org_id"),
        _references(
            "sessions",
            "directive_versions",
            "directive_version_id",
            "agent_id",
            "org_id",
            key=("id", "agent_id", "org_id"),
        ),
        _check("sessions", "status", "status IN ('active', 'completed', 'abandoned', 'error')"),
        _check("sessions", "turn_count", "turn_count >= 1"),
        _check("sessions", "total_input_tokens", "total_input_tokens >= 0"),
        _check("sessions", "total_output_tokens", "total_output_tokens >= 0"),
        _check("sessions", "total_latency_ms", "total_latency_ms >= 0"),
        _check("sessions", "last_extracted_turn", "last_extracted_turn >= 0"),
    )
    op.create_index("ix_sessions_org_id", "sessions", ["org_id"], postgresql_where=sa.text("deleted_at IS NULL"))


def _make_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        _uuid("id"),
        _uuid("session_id"),
        _uuid("org_id"),
        _uuid("agent_id"),
        _integer("turn_index"),
        _uuid("request_id"),
        _text("messages_hash"),
        _text("completion_hash", nullable=True),
        _integer("input_tokens", nullable=True),
        _integer("output_tokens", nullable=True),
        _text("model"),
        _text("provider"),
        _bigint("latency_ms"),
        _text("provider_request_id", nullable=True),
        _flag("is_streaming"),
        _flag("is_complete"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        _unique("checkpoints", "session_id", "turn_index"),
        _unique("checkpoints", "request_id", "org_id"),
        _references("checkpoints", "sessions", "session_id", "org_id"),
        _references("checkpoints", "agents", "agent_id", "org_id"),
        _check("checkpoints", "messages_hash", _SHA256.format("messages_hash")),
        _check("checkpoints", "completion_hash", _SHA256.format("completion_hash")),
        _check("checkpoints", "turn_index", "turn_index >= 0"),
        _check("checkpoints", "input_tokens", "input_tokens >= 0"),
        _check("checkpoints", "output_tokens", "output_tokens >= 0"),
        _check("checkpoints", "latency_ms", "latency_ms >= 0"),
    )


def _make_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _uuid("org_id"),
        _text("kind"),
        _time("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        _of_organization("outbox"),
        _check("outbox", "kind", "kind IN ('tokens', 'agents', 'directives')"),
    )


def _refuse_changes() -> None:
    op.execute(
        dedent("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
        END $$
        """)
    )
    for table in _NEVER_CHANGED:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def _note_changes() -> None:
    """Write the outbox by trigger, so that no path to a change can forget it.

    The functions run with the rights of whoever makes the change, and name the schema: a temporary table of the same
    name would otherwise come first.
    """
    for function, column in (("note_change", "org_id"), ("note_organization_change", "id")):
        body = f"""
        CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO public.outbox (org_id, kind) VALUES (NEW.{column}, TG_ARGV[0]);
          RETURN NULL;
        END $$
        """  # noqa: S608 - both names stand two lines above
        op.execute(dedent(body))
    for table, events, column, kind in _NOTED_CHANGES:
        function = "note_change" if column == "org_id" else "note_organization_change"
        op.execute(
            f"CREATE TRIGGER outbox AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}('{kind}')"
        )


def _secure() -> None:
    op.execute(f"GRANT USAGE ON SCHEMA public TO {', '.join(_ROLES)}")
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for table, rights in _APP_RIGHTS.items():
        rows = _OWN_ROWS if table != "outbox" else f"{_OWN_ROWS} AND kind = 'directives'"
        op.execute(f"CREATE POLICY app_tenant ON {table} TO ibex_app USING ({rows}) WITH CHECK ({rows})")
        op.execute(f"GRANT {rights} ON {table} TO ibex_app")
    for table, rights in _AUTH_RIGHTS.items():
        op.execute(f"CREATE POLICY auth_all ON {table} TO ibex_auth USING (true) WITH CHECK (true)")
        op.execute(f"GRANT {rights} ON {table} TO ibex_auth")
