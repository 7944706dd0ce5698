"""Access in PostgreSQL: roles, row-level security, and constraints beyond it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from harness.tenants import attach, new_draft, new_organization, new_token, new_user
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.postgres.tables import METADATA

if TYPE_CHECKING:
    from harness.postgres import PostgresDatabase
    from ibex.domain.identity.management import NamedAgent

pytestmark = pytest.mark.integration

APP_TABLES = ("directives", "directive_versions", "sessions", "checkpoints")
AUTH_TABLES = ("organizations", "users", "agents", "tokens")
LOG_TABLES = ("changes", "change_snapshots", "change_incarnation")


@pytest.fixture
async def two_tenants(postgres: PostgresDatabase) -> tuple[NamedAgent, NamedAgent]:
    """One agent of each of two organizations, both with a row in every table."""
    auth, app = Database(postgres.auth_url, AUTH_ROLE), Database(postgres.app_url, APP_ROLE)
    await auth.open()
    await app.open()
    identity = PostgresIdentity(auth)
    agents = (await attach(identity), await attach(identity))
    for agent in agents:
        await identity.add_user(new_user(agent.org_id))
        await identity.add_token(new_token(agent.org_id, agent_id=agent.id))
        await PostgresDirectives(app).add_version(agent.org_id, agent.id, new_draft(), None)
        await PostgresSessions(app).append([new_turn(agent)])
    await app.close()
    await auth.close()
    return agents


def _as_app(database: PostgresDatabase, org_id: UUID | str | None) -> psycopg.Connection[Any]:
    connection = psycopg.connect(database.app_url)
    if org_id is not None:
        connection.execute("SELECT set_config('app.current_org_id', %s, true)", [str(org_id)])
    return connection


def _count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("table", APP_TABLES)
@pytest.mark.parametrize("nobody", [None, "", "another"])
def test_the_app_role_sees_nothing_outside_an_organization(
    postgres: PostgresDatabase, two_tenants: object, table: str, nobody: str | None
) -> None:
    """It sees no row without the setting, with an empty setting, and with the id of another organization."""
    del two_tenants
    with _as_app(postgres, str(uuid4()) if nobody == "another" else nobody) as connection:
        assert _count(connection, table) == 0


@pytest.mark.parametrize("table", APP_TABLES)
def test_the_app_role_sees_its_own_organization_only(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent], table: str
) -> None:
    """It sees one row of each table, although both organizations have one."""
    for agent in two_tenants:
        with _as_app(postgres, agent.org_id) as connection:
            rows = connection.execute(sql.SQL("SELECT org_id FROM {}").format(sql.Identifier(table))).fetchall()
            assert rows == [(agent.org_id,)]


def test_a_setting_of_an_ended_transaction_is_gone(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """On the same connection, the next transaction sees no row until it is bound again."""
    with _as_app(postgres, two_tenants[0].org_id) as connection:
        assert _count(connection, "sessions") == 1
        connection.commit()
        assert _count(connection, "sessions") == 0


async def test_a_pooled_connection_does_not_carry_an_organization_over(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """With a pool of one, after a commit and a failure, an unbound transaction sees no row and a bound one its own."""
    ours, theirs = two_tenants
    database = Database(postgres.app_url, APP_ROLE, pool_size=1)
    await database.open()

    async def seen(org_id: UUID | None) -> list[UUID]:
        async with database.transaction(org_id) as connection:
            return [row[0] for row in await (await connection.execute("SELECT org_id FROM sessions")).fetchall()]

    assert await seen(ours.org_id) == [ours.org_id]
    assert await seen(None) == []
    with pytest.raises(LookupError):
        async with database.transaction(ours.org_id):
            raise LookupError
    assert await seen(None) == []
    assert await seen(theirs.org_id) == [theirs.org_id]
    await database.close()


@pytest.mark.parametrize("table", ["users", "tokens", "organizations", "agents", "alembic_version"])
def test_the_app_role_cannot_read_identity(postgres: PostgresDatabase, table: str) -> None:
    """It has no right to the tables, so it cannot read even the rows of its organization."""
    with _as_app(postgres, uuid4()) as connection, pytest.raises(errors.InsufficientPrivilege):
        _count(connection, table)


def test_only_auth_can_change_a_rate_limit(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """The app role has no right to the table. The owner has no policy on it, and finds no row."""
    ours, _ = two_tenants
    change = "UPDATE organizations SET rate_limit_rpm = 5"
    with _as_app(postgres, ours.org_id) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(change)
    with psycopg.connect(postgres.owner_url) as connection:
        assert connection.execute(change).rowcount == 0
    with psycopg.connect(postgres.auth_url) as connection:
        assert connection.execute(change).rowcount == 2


@pytest.mark.parametrize("table", LOG_TABLES)
def test_the_app_role_cannot_read_the_log_of_changes(postgres: PostgresDatabase, table: str) -> None:
    """Its triggers write its own changes. It cannot read those of other organizations."""
    with _as_app(postgres, uuid4()) as connection, pytest.raises(errors.InsufficientPrivilege):
        _count(connection, table)


def test_the_auth_role_reads_the_changes_of_every_organization(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """These are changes of identity, and the changes of directives that the app role made."""
    with psycopg.connect(postgres.auth_url) as connection:
        found = connection.execute("SELECT DISTINCT org_id, kind FROM changes").fetchall()
    kinds = ("tokens", "agents", "directives")
    assert set(found) == {(agent.org_id, kind) for agent in two_tenants for kind in kinds}


@pytest.mark.parametrize(
    "statement", ["UPDATE changes SET kind = 'agents'", "UPDATE change_incarnation SET value = DEFAULT"]
)
def test_the_auth_role_cannot_rewrite_the_log_of_changes(
    postgres: PostgresDatabase, two_tenants: object, statement: str
) -> None:
    """It can append and prune."""
    del two_tenants
    with psycopg.connect(postgres.auth_url) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("table", APP_TABLES)
def test_the_auth_role_cannot_read_sessions_and_directives(postgres: PostgresDatabase, table: str) -> None:
    """Sessions, checkpoints and directives are not identity."""
    with psycopg.connect(postgres.auth_url) as connection, pytest.raises(errors.InsufficientPrivilege):
        _count(connection, table)


@pytest.mark.parametrize("table", AUTH_TABLES)
def test_the_auth_role_sees_identity_of_every_organization(
    postgres: PostgresDatabase, two_tenants: object, table: str
) -> None:
    """It must, because a token's organization is only known once the token is found."""
    del two_tenants
    with psycopg.connect(postgres.auth_url) as connection:
        assert _count(connection, table) == 2


@pytest.mark.parametrize("statement", ["UPDATE checkpoints SET latency_ms = 0", "DELETE FROM checkpoints"])
def test_the_app_role_cannot_change_a_checkpoint(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent], statement: str
) -> None:
    """It has no such right."""
    with _as_app(postgres, two_tenants[0].org_id) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("table", ["checkpoints", "directive_versions"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_append_only_tables_cannot_be_changed(
    postgres: PostgresDatabase, two_tenants: object, table: str, statement: str
) -> None:
    """A trigger refuses changes even with the rights of the superuser."""
    del two_tenants
    with psycopg.connect(postgres.superuser_url) as connection, pytest.raises(errors.RestrictViolation):
        connection.execute(sql.SQL(statement).format(sql.Identifier(table)))


@pytest.mark.parametrize("column", ["id", "org_id", "agent_id", "external_id", "model", "created_at"])
def test_the_app_role_cannot_change_the_owner_of_a_session(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent], column: str
) -> None:
    """Only status, totals and times can change."""
    statement = sql.SQL("UPDATE sessions SET {0} = {0}").format(sql.Identifier(column))
    with _as_app(postgres, two_tenants[0].org_id) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


def test_the_app_role_cannot_write_into_another_organization(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """It cannot insert a row of another organization, and cannot see another's rows to change them."""
    ours, theirs = two_tenants
    with _as_app(postgres, ours.org_id) as connection:
        changed = connection.execute("UPDATE sessions SET turn_count = 9 WHERE org_id = %s", [theirs.org_id])
        assert changed.rowcount == 0
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            connection.execute("INSERT INTO changes (org_id, kind) VALUES (%s, 'directives')", [theirs.org_id])


def test_the_app_role_logs_only_changes_of_directives(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """It cannot log a change of tokens or agents."""
    insert = "INSERT INTO changes (org_id, kind) VALUES (%s, %s)"
    with _as_app(postgres, two_tenants[0].org_id) as connection:
        connection.execute(insert, [two_tenants[0].org_id, "directives"])
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            connection.execute(insert, [two_tenants[0].org_id, "tokens"])


def test_keys_keep_tenants_apart_without_row_level_security(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """Foreign-key checks see every row. No key matches a reference to another organization's agent or session."""
    ours, theirs = two_tenants
    copy = "INSERT INTO {0} SELECT (r).* FROM (SELECT jsonb_populate_record(t, %s) AS r FROM {0} t) x"
    foreign = {
        "sessions": {"external_id": "x", "agent_id": theirs.id},
        "checkpoints": {"request_id": uuid4(), "turn_index": 1, "session_id": session_of(new_turn(theirs))},
        "directive_versions": {"number": 2, "agent_id": theirs.id},
    }
    for table, change in foreign.items():
        values = Jsonb({"id": uuid4(), **change}, dumps=partial(json.dumps, default=str))
        with _as_app(postgres, ours.org_id) as connection, pytest.raises(errors.ForeignKeyViolation):
            connection.execute(copy.format(table).encode(), [values])


def test_no_setting_of_the_application_disables_the_policies(postgres: PostgresDatabase, two_tenants: object) -> None:
    """``row_security`` only turns hidden rows into an error, and it cannot take on another role."""
    del two_tenants
    with _as_app(postgres, None) as connection:
        connection.execute("SET LOCAL row_security = off")
        with pytest.raises(errors.InsufficientPrivilege):
            _count(connection, "sessions")
    for role in ("ibex_auth", "ibex_owner", "postgres"):
        with _as_app(postgres, None) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))


def test_the_app_role_abandons_idle_sessions_and_sees_none_of_them(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """It needs no organization for that, gets only the number of sessions, and cannot become the sweeper."""
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute("UPDATE sessions SET updated_at = '2026-01-01', created_at = '2026-01-01'")
    with _as_app(postgres, None) as connection:
        row = connection.execute("SELECT abandon_idle_sessions('infinity', 1000000000)").fetchone()
        assert row == (len(two_tenants),)
        assert _count(connection, "sessions") == 0
    with _as_app(postgres, None) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SET ROLE ibex_sweeper")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET status = 'completed'",
        "UPDATE sessions SET turn_count = 0",
        "SELECT external_id FROM sessions",
        "DELETE FROM sessions",
        "SELECT id FROM checkpoints",
        "SELECT id FROM organizations",
    ],
)
def test_the_sweeper_can_do_nothing_else(postgres: PostgresDatabase, two_tenants: object, statement: str) -> None:
    """It cannot read a session's handle, set another status or read other tables, and it cannot log in."""
    del two_tenants
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute("SET ROLE ibex_sweeper")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    with psycopg.connect(postgres.superuser_url) as connection:
        found = connection.execute(
            "SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'ibex_sweeper'"
        ).fetchall()
    assert found == [(False, False, False)]


@pytest.mark.parametrize("role", ["auth", "owner"])
@pytest.mark.parametrize("call", ["abandon_idle_sessions(now(), 1)", "record_turns('[]', false)"])
def test_only_the_app_role_can_sweep_and_record(postgres: PostgresDatabase, role: str, call: str) -> None:
    """This covers auth, and the owner that created the functions and gave them away."""
    url = postgres.auth_url if role == "auth" else postgres.owner_url
    with psycopg.connect(url) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(f"SELECT {call}".encode())


def test_the_app_role_records_for_every_organization_and_sees_none(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """The function returns nothing of a row, whether it was recorded now or before, and no row becomes visible."""
    ours, theirs = two_tenants
    turns = [new_turn(ours), new_turn(theirs)]
    with _as_app(postgres, ours.org_id) as connection:
        for _ in range(2):
            batch = Jsonb(turns, dumps=msgspec.json.encode)
            row = connection.execute("SELECT record_turns(%s, false)", [batch]).fetchone()
            assert row == ([],)
            assert _count(connection, "sessions") == 1
            assert _count(connection, "checkpoints") == 2
    with _as_app(postgres, None) as connection:
        assert _count(connection, "checkpoints") == 0
    with _as_app(postgres, None) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SET ROLE ibex_recorder")


def test_an_error_of_recording_shows_nothing_of_a_row(
    postgres: PostgresDatabase, two_tenants: tuple[NamedAgent, NamedAgent]
) -> None:
    """PostgreSQL quotes the row that violates a constraint, but not to a role that row-level security binds."""
    overflow = 1 << 63
    turn = new_turn(two_tenants[1], latency_ms=overflow - 1)
    with _as_app(postgres, two_tenants[0].org_id) as connection, pytest.raises(errors.DataError) as raised:
        connection.execute("SELECT record_turns(%s, false)", [Jsonb([turn], dumps=msgspec.json.encode)])
    assert raised.value.diag.message_detail is None
    negative = new_turn(two_tenants[1], latency_ms=-1)
    with _as_app(postgres, two_tenants[0].org_id) as connection, pytest.raises(errors.CheckViolation) as violated:
        connection.execute("SELECT record_turns(%s, false)", [Jsonb([negative], dumps=msgspec.json.encode)])
    assert violated.value.diag.message_detail is None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT external_id FROM sessions",
        "SELECT model FROM checkpoints",
        "SELECT messages_hash FROM checkpoints",
        "UPDATE sessions SET agent_id = gen_random_uuid()",
        "UPDATE sessions SET deleted_at = now()",
        "UPDATE sessions SET status = 'abandoned'",
        "UPDATE checkpoints SET latency_ms = 0",
        "DELETE FROM sessions",
        "DELETE FROM checkpoints",
        "SELECT id FROM agents",
        "SELECT id FROM organizations",
    ],
)
def test_the_recorder_can_do_nothing_else(postgres: PostgresDatabase, two_tenants: object, statement: str) -> None:
    """It reads ids and totals only, changes nothing but totals, deletes nothing, and cannot log in."""
    del two_tenants
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute("SET ROLE ibex_recorder")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    with psycopg.connect(postgres.superuser_url) as connection:
        found = connection.execute(
            "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,"
            " (SELECT count(*) FROM pg_auth_members WHERE roleid = r.oid AND NOT admin_option)"
            " FROM pg_roles r WHERE rolname = 'ibex_recorder'"
        ).fetchall()
    assert found == [(False, False, False, False, False, 0)]


def test_the_owner_is_bound_by_row_level_security_too(postgres: PostgresDatabase, two_tenants: object) -> None:
    """Because of FORCE, a migration's connection that is misused sees no tenant's rows."""
    del two_tenants
    with psycopg.connect(postgres.owner_url) as connection:
        assert {table: _count(connection, table) for table in METADATA.tables} == dict.fromkeys(METADATA.tables, 0)


_NOT_SECURED = """
SELECT c.relname || ': ' || problem
FROM pg_class c, LATERAL (
  SELECT 'row-level security is not enabled and forced' AS problem
  WHERE NOT (c.relrowsecurity AND c.relforcerowsecurity)
  UNION ALL
  SELECT 'no policy' WHERE NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
  UNION ALL
  SELECT 'policy ' || p.polname || ' is for everybody'
  FROM pg_policy p WHERE p.polrelid = c.oid AND 0 = ANY (p.polroles)
  UNION ALL
  SELECT 'policy ' || p.polname || ' lets ibex_app see more than one organization'
  FROM pg_policy p JOIN pg_roles r ON r.oid = ANY (p.polroles) AND r.rolname = 'ibex_app'
  WHERE p.polrelid = c.oid
    AND (coalesce(pg_get_expr(p.polqual, c.oid), '') NOT LIKE '%current_org_id%'
         OR coalesce(pg_get_expr(p.polwithcheck, c.oid), '') NOT LIKE '%current_org_id%')
  UNION ALL
  SELECT 'no foreign key leads to an organization'
  WHERE NOT EXISTS (SELECT FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
                    WHERE k.conrelid = c.oid AND k.contype = 'f' AND a.attnum = ANY (k.conkey))
  UNION ALL
  SELECT 'foreign key ' || k.conname || ' leaves the organization out'
  FROM pg_constraint k
  WHERE k.conrelid = c.oid AND k.contype = 'f' AND NOT EXISTS (
    SELECT FROM unnest(k.conkey, k.confkey) AS pair (own, other)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = pair.own
    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = pair.other
    WHERE a.attname = 'org_id' AND b.attname IN ('org_id', 'id')
      AND (b.attname = 'org_id' OR k.confrelid = 'organizations'::regclass)
  )
) problems
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND EXISTS (
  SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
)
ORDER BY 1
"""


def test_every_tenant_table_is_secured(postgres: PostgresDatabase) -> None:
    """Each such table has forced row-level security, policies per role, and keys that contain the organization."""
    with psycopg.connect(postgres.superuser_url) as connection:
        assert connection.execute(_NOT_SECURED.encode()).fetchall() == []


def test_a_new_tenant_table_without_security_is_found(postgres: PostgresDatabase) -> None:
    """The test above can fail: it finds every kind of omission."""
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute(
            "CREATE TABLE memories (id uuid PRIMARY KEY, org_id uuid, agent_id uuid REFERENCES agents (id))"
        )
        connection.execute("CREATE TABLE notes (org_id uuid REFERENCES organizations (id))")
        connection.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        connection.execute("ALTER TABLE notes FORCE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY open ON notes USING (true)")
        connection.execute("CREATE POLICY wide ON notes TO ibex_app USING (true) WITH CHECK (true)")
        assert [row[0] for row in connection.execute(_NOT_SECURED.encode())] == [
            "memories: foreign key memories_agent_id_fkey leaves the organization out",
            "memories: no foreign key leads to an organization",
            "memories: no policy",
            "memories: row-level security is not enabled and forced",
            "notes: policy open is for everybody",
            "notes: policy wide lets ibex_app see more than one organization",
        ]
        connection.rollback()


def test_organizations_are_secured_too(postgres: PostgresDatabase) -> None:
    """The table of organizations has no ``org_id``. Only auth has a policy on it."""
    with psycopg.connect(postgres.superuser_url) as connection:
        found = connection.execute(
            "SELECT c.relrowsecurity, c.relforcerowsecurity, array_agg(r.rolname::text) FROM pg_class c"
            " JOIN pg_policy p ON p.polrelid = c.oid JOIN pg_roles r ON r.oid = ANY (p.polroles)"
            " WHERE c.oid = 'organizations'::regclass GROUP BY 1, 2"
        ).fetchall()
    assert found == [(True, True, ["ibex_auth"])]


def test_reserved_permission_bits_and_wrong_values_are_refused_by_the_schema(postgres: PostgresDatabase) -> None:
    """The last line of defence holds without the code above it."""
    organization = new_organization()
    insert = "INSERT INTO organizations VALUES (%s, %s, %s, %s, now())"
    token = (
        "INSERT INTO tokens (id, org_id, name, permissions, key_id, digest, created_at)"
        " VALUES (gen_random_uuid(), %s, 'x', %s, 'k', %s, now())"
    )
    with psycopg.connect(postgres.auth_url, autocommit=True) as connection:
        connection.execute(insert, [organization.id, "one", "active", 0])
        connection.execute(token, [organization.id, (1 << 56) - 1, bytes(32)])
        for statement, values in (
            (insert, [uuid4(), "two", "active", -1]),
            (insert, [uuid4(), "two", "closed", 1]),
            (token, [organization.id, 1 << 56, bytes(32)]),
            (token, [organization.id, -1, bytes(32)]),
            (token, [organization.id, 1, bytes(31)]),
        ):
            with pytest.raises(errors.CheckViolation):
                connection.execute(statement.encode(), values)
