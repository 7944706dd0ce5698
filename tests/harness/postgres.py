"""A real PostgreSQL for tests: one server per run, started by the first test that needs it, emptied after each."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import DATABASE, OWNER_ROLE, PostgresServer
from ibex.adapters.postgres.tables import METADATA

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """One database of the server, by its name."""

    server: PostgresServer
    name: str

    @property
    def superuser_url(self) -> str:
        """The URL of the superuser, for tests that bypass row-level security."""
        return self.server.superuser_url(self.name)

    @property
    def owner_url(self) -> str:
        """The URL for migrations."""
        return self.server.url(OWNER_ROLE, self.name)

    @property
    def app_url(self) -> str:
        """The URL with which the proxy connects."""
        return self.server.url(APP_ROLE, self.name)

    @property
    def auth_url(self) -> str:
        """The URL with which auth connects."""
        return self.server.url(AUTH_ROLE, self.name)

    @property
    def socket(self) -> str:
        """The path of the socket that the server listens on."""
        (directory,) = parse_qs(urlsplit(self.app_url).query)["host"]
        return f"{directory}/.s.PGSQL.5432"

    def dump(self, without: Container[str] = ()) -> str:
        """Return the rows of all tables but the excluded ones as text, to search for values that must not be stored."""
        tables = [table for table in METADATA.tables if table not in without]
        with psycopg.connect(self.superuser_url) as connection:
            return "\n".join(
                str(row)
                for table in tables
                for row in connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table)))
            )

    def empty(self) -> None:
        """Remove every row."""
        with psycopg.connect(self.superuser_url, options="-c lock_timeout=10s") as connection:
            connection.execute("SET session_replication_role = replica")  # disables triggers against deletion
            for table in METADATA.tables:
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, stopped at the end of the run. Its folder's path is short, since it contains a socket."""
    directory = Path(tempfile.mkdtemp(prefix="ibex-postgres-"))
    server = PostgresServer(directory / "postgres")
    try:
        server.start()
        with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # the data need not survive a crash of the machine
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> PostgresDatabase:
    """The database that tests share. Tests use ``postgres``, which is this one, emptied."""
    database = PostgresDatabase(postgres_server, DATABASE)
    migrate.upgrade(database.owner_url)
    return database


@pytest.fixture(scope="module")
def module_postgres(migrated_postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """An empty database with the newest schema, shared by the tests of a module."""
    yield migrated_postgres
    migrated_postgres.server.start()
    migrated_postgres.empty()


@pytest.fixture
def postgres(migrated_postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """An empty database with the newest schema on a running server, for one test."""
    yield migrated_postgres
    migrated_postgres.server.start()  # the test may have stopped it
    migrated_postgres.empty()


@contextmanager
def another_database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """Create a database without tables, owned by IBEX's owner role, and drop it afterwards."""
    name = f"another_{uuid4().hex}"
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        identifiers = (sql.Identifier(name), sql.Identifier(OWNER_ROLE))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*identifiers))
        yield PostgresDatabase(server, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database without tables, owned by IBEX's owner role, for one test."""
    with another_database(postgres_server) as database:
        yield database
