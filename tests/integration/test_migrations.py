"""Migrations up, down and up again, and the comparison of their schema with ``tables``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint

from harness.command import run_ibex
from harness.process import IbexProcess
from harness.servers import free_port
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.tables import METADATA

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

_OBJECTS = """
SELECT 'table ' || c.relname FROM pg_class c
WHERE c.relkind IN ('r', 'v', 'S', 'i') AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'function ' || p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger ' || t.tgname FROM pg_trigger t WHERE NOT t.tgisinternal
UNION ALL
SELECT 'policy ' || p.polname || ' on ' || p.polrelid::regclass FROM pg_policy p
UNION ALL
SELECT 'right ' || grantee || ' ' || privilege_type || ' ' || table_name FROM information_schema.role_table_grants
WHERE table_schema = 'public' AND grantee LIKE 'ibex\\_a%%'
"""

_A_DIRECTIVE = """
WITH o AS (
    INSERT INTO organizations (id, name, status, created_at)
    VALUES ('00000000-0000-0000-0000-000000000001', 'acme', 'active', now()) RETURNING id
), a AS (
    INSERT INTO agents (id, org_id, name, status, created_at) SELECT id, id, 'support', 'active', now() FROM o
    RETURNING id
), d AS (
    INSERT INTO directives (agent_id, org_id, injection_mode, is_active, active_version_id)
    SELECT id, id, 'user_prepend', true, id FROM a RETURNING agent_id
)
INSERT INTO directive_versions (id, agent_id, org_id, number, text, sha256, author, created_at)
SELECT CASE n WHEN 1 THEN agent_id ELSE gen_random_uuid() END, agent_id, agent_id, n,
       CASE n WHEN 1 THEN 'one' ELSE 'two' END, repeat('a', 64), 'me', now()
FROM d, generate_series(1, 2) AS n
"""


def _objects(database: PostgresDatabase) -> set[str]:
    with psycopg.connect(database.superuser_url) as connection:
        return {row[0] for row in connection.execute(_OBJECTS)}


def test_migrations_go_up_down_and_up(empty_postgres: PostgresDatabase) -> None:
    """Downgrading leaves only Alembic's own table. The second upgrade creates the same objects as the first."""
    url = empty_postgres.owner_url
    assert migrate.current(url) is None
    assert migrate.upgrade(url) == migrate.head()
    made = _objects(empty_postgres)
    assert "table checkpoints" in made
    assert migrate.downgrade(url) is None
    assert _objects(empty_postgres) == {"table alembic_version", "table alembic_version_pkc"}
    assert migrate.upgrade(url) == migrate.head()
    assert _objects(empty_postgres) == made


async def test_earlier_directive_versions_get_the_mode_of_their_directive(empty_postgres: PostgresDatabase) -> None:
    """A rollback would have injected them in this mode. The migration changes nothing else about them."""
    migrate.upgrade(empty_postgres.owner_url, "0006")
    with psycopg.connect(empty_postgres.superuser_url) as connection:
        connection.execute(_A_DIRECTIVE)
    migrate.upgrade(empty_postgres.owner_url)
    with psycopg.connect(empty_postgres.superuser_url) as connection:
        found = connection.execute("SELECT injection_mode, text FROM directive_versions ORDER BY number").fetchall()
        forced = connection.execute(
            "SELECT relname FROM pg_class WHERE relforcerowsecurity AND relname LIKE 'directive%' ORDER BY relname"
        ).fetchall()
        with pytest.raises(psycopg.DatabaseError, match="directive_versions"):
            connection.execute("UPDATE directive_versions SET text = 'x'")
    assert found == [("user_prepend", "one"), ("user_prepend", "two")]
    assert forced == [("directive_versions",), ("directives",)]


def test_a_second_migration_changes_nothing(empty_postgres: PostgresDatabase) -> None:
    """The database is already up to date."""
    migrate.upgrade(empty_postgres.owner_url)
    made = _objects(empty_postgres)
    assert migrate.upgrade(empty_postgres.owner_url) == migrate.head()
    assert _objects(empty_postgres) == made


async def test_concurrent_migrations_wait_for_each_other(empty_postgres: PostgresDatabase) -> None:
    """Replicas may migrate when they start."""
    runs = [asyncio.to_thread(migrate.upgrade, empty_postgres.owner_url) for _ in range(4)]
    assert await asyncio.gather(*runs) == [migrate.head()] * 4


def test_a_failed_migration_leaves_nothing(empty_postgres: PostgresDatabase) -> None:
    """All migrations of a run are one transaction."""
    with psycopg.connect(empty_postgres.owner_url) as connection:
        connection.execute("CREATE TABLE change_incarnation ()")  # conflicts with the last table
    before = _objects(empty_postgres)
    with pytest.raises(migrate.MigrationError, match="change_incarnation"):
        migrate.upgrade(empty_postgres.owner_url)
    assert _objects(empty_postgres) == before


def test_pending_migrations_are_listed_without_a_change(empty_postgres: PostgresDatabase) -> None:
    """They are listed in order. Afterwards there are none."""
    url = empty_postgres.owner_url
    before = _objects(empty_postgres)
    revisions = list(migrate.pending(url))
    assert (revisions[0], revisions[-1], revisions) == ("0001", migrate.head(), sorted(revisions))
    assert _objects(empty_postgres) == before
    migrate.upgrade(url, "0002")
    assert list(migrate.pending(url)) == revisions[2:]
    migrate.upgrade(url)
    assert list(migrate.pending(url)) == []


def test_a_migration_gives_up_if_a_transaction_keeps_a_table_locked(empty_postgres: PostgresDatabase) -> None:
    """It never waits long, because the proxies' statements would wait behind it. The error says what to do."""
    url = empty_postgres.owner_url
    migrate.upgrade(url, "0008")
    with psycopg.connect(url) as other:
        other.execute("SELECT count(*) FROM checkpoints")  # holds a lock until the end of the transaction
        with pytest.raises(migrate.MigrationError, match=r"another transaction holds a lock .* pg_stat_activity"):
            migrate.upgrade(url, attempts=2)
    assert migrate.current(url) == "0008"


async def test_a_migration_waits_until_a_table_is_not_locked(empty_postgres: PostgresDatabase) -> None:
    """Meanwhile statements of others do not wait for longer than the lock timeout."""
    url = empty_postgres.owner_url
    migrate.upgrade(url, "0008")
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as third:
        other.execute("SELECT count(*) FROM checkpoints")
        migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, url))
        while not third.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the server sends no notification
        third.execute(f"SET statement_timeout = '{migrate.LOCK_TIMEOUT_S + 5}s'".encode())
        third.execute("SELECT count(*) FROM checkpoints")
        assert not migrating.done()
        other.rollback()
        assert await migrating == migrate.head()


def test_a_newer_schema_stays_as_it_is(empty_postgres: PostgresDatabase) -> None:
    """The error names both revisions, so that a user knows which version of IBEX to run."""
    url = empty_postgres.owner_url
    migrate.upgrade(url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for act in (migrate.upgrade, migrate.pending):
        with pytest.raises(migrate.NewerSchemaError, match=f"at revision 9999, .* up to {migrate.head()}"):
            act(url)
    assert migrate.current(url) == "9999"


def test_the_check_of_migrations_has_an_exit_code(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """It is 3 if migrations are pending, which it names. An older version accepts the schema of a newer one."""
    environ = {"IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url, "IBEX_CLICKHOUSE_URL": empty_clickhouse.url}

    def ibex(*arguments: str) -> tuple[int, str]:
        done = run_ibex(tmp_path / ".ibex", environ, *arguments)
        return done.returncode, done.stdout + done.stderr

    code, told = ibex("migrate", "--check")
    assert code == 3
    assert f"PostgreSQL: {', '.join(migrate.pending(empty_postgres.owner_url))} pending." in told
    assert "ClickHouse: 0001_llm_traces, " in told
    assert ibex("migrate")[0] == 0
    assert ibex("migrate", "--check") == (0, "PostgreSQL is up to date.\nClickHouse is up to date.\n")

    with psycopg.connect(empty_postgres.owner_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for arguments in (("migrate", "--check"), ("migrate",)):
        code, told = ibex(*arguments)
        assert code == 0
        assert f"the schema is at revision 9999, this version of IBEX knows those up to {migrate.head()}" in told
        assert "To migrate, run `ibex migrate` of the newer version." in told


def test_the_migrated_schema_matches_the_tables(migrated_postgres: PostgresDatabase) -> None:
    """Alembic finds no difference between the database and ``tables``, defaults and types included."""
    with migrate.locked_connection(migrated_postgres.owner_url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []


def test_the_migrated_checks_match_the_tables(migrated_postgres: PostgresDatabase) -> None:
    """Alembic does not compare CHECK constraints, so the test compares PostgreSQL's rendering of both."""
    described: dict[Any, str] = {
        (table.name, str(constraint.name)): str(constraint.sqltext)
        for table in METADATA.sorted_tables
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    rendered = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    with psycopg.connect(migrated_postgres.superuser_url) as connection:
        checks = connection.execute(f"{rendered} WHERE contype = 'c' AND conrelid <> 0".encode())
        found = {(table, name): definition for table, name, definition in checks}
        assert set(found) == set(described)
        for (table, name), condition in described.items():
            connection.execute(f"CREATE TEMP TABLE described (LIKE {table})".encode())
            connection.execute(f'ALTER TABLE described ADD CONSTRAINT "{name}" CHECK ({condition})'.encode())
            again = connection.execute(f"{rendered} WHERE contype = 'c' AND conrelid = 'described'::regclass".encode())
            assert [definition for _, _, definition in again] == [found[table, name]]
            connection.execute("DROP TABLE described")
        connection.rollback()


def test_the_two_roles_have_only_the_rights_to_log_in(migrated_postgres: PostgresDatabase) -> None:
    """They have no password, so they can log in only where the server trusts them."""
    with psycopg.connect(migrated_postgres.superuser_url) as connection:
        roles = connection.execute(
            "SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,"
            " rolpassword IS NULL FROM pg_authid WHERE rolname IN ('ibex_app', 'ibex_auth') ORDER BY rolname"
        ).fetchall()
    assert roles == [(name, True, False, False, False, False, False, True) for name in ("ibex_app", "ibex_auth")]


def test_migrations_are_found_in_the_installed_package_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel contains them inside the package. A source tree has them in its root directory."""
    source = migrate.script_location()
    assert (source / "env.py").is_file()
    package = tmp_path / "src" / "ibex"
    monkeypatch.setattr(migrate, "_PACKAGE", package)
    assert migrate.script_location() == tmp_path / "alembic"
    (package / "_migrations").mkdir(parents=True)
    (package / "_migrations" / "postgres").symlink_to(source)
    assert migrate.script_location() == package / "_migrations" / "postgres"
    assert migrate.head() is not None


def test_the_revisions_have_no_branches() -> None:
    """There is one head and one base, so every database takes the same path."""
    scripts = ScriptDirectory(str(migrate.script_location()))
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1
    assert not [script for script in scripts.walk_revisions() if script.is_branch_point or script.is_merge_point]


def test_a_failed_migration_is_reported_in_one_line(empty_postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The line has the variable and the reason, without a traceback or a password, for PostgreSQL and ClickHouse."""
    port = free_port()
    owner, nobody = empty_postgres.owner_url, f"postgresql://me:canary@127.0.0.1:{port}/db"
    nowhere = empty_postgres.server.url("postgres", "nowhere")
    clickhouse = f"http://me:canary@127.0.0.1:{port}/ibex"

    def told(owner_url: str) -> list[str]:
        environ = {"IBEX_OWNER_DATABASE_URL": owner_url, "IBEX_CLICKHOUSE_URL": clickhouse}
        process = IbexProcess.spawn(["migrate"], environ, tmp_path)
        assert process.wait() == 1
        return process.lines[:-1]  # the last line marks the end of the output

    assert told(nobody) == ["ibex: IBEX_OWNER_DATABASE_URL: no server listens at this address"]
    assert told(nowhere) == ["ibex: IBEX_OWNER_DATABASE_URL: the database or the role does not exist"]
    assert told(owner) == ["ibex: IBEX_CLICKHOUSE_URL: cannot migrate ClickHouse (connection failed or timed out)"]


def test_a_database_with_a_later_revision_is_refused(migrated_postgres: PostgresDatabase) -> None:
    """The error names the unknown revision."""
    with psycopg.connect(migrated_postgres.superuser_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(migrate.MigrationError, match="9999"):
        migrate.upgrade(migrated_postgres.owner_url)


def test_only_the_owner_creates_objects(empty_postgres: PostgresDatabase) -> None:
    """PostgreSQL 14 and older let every role create them. Downgrading does not give the right back."""
    query = "SELECT has_schema_privilege('public', 'public', 'CREATE')"
    with psycopg.connect(empty_postgres.superuser_url, autocommit=True) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        assert connection.execute(query).fetchone() == (True,)
        migrate.upgrade(empty_postgres.owner_url)
        assert connection.execute(query).fetchone() == (False,)
        migrate.downgrade(empty_postgres.owner_url, "0010")
        assert connection.execute(query).fetchone() == (False,)
