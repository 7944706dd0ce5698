"""A real PostgreSQL for tests: one server a run, started by the first test that asks, emptied after each."""

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
        """For what no role of IBEX may do: looking through row-level security."""
        return self.server.superuser_url(self.name)

    @property
    def owner_url(self) -> str:
        """For migrations."""
        return self.server.url(OWNER_ROLE, self.name)

    @property
    def app_url(self) -> str:
        """As the proxy connects."""
        return self.server.url(APP_ROLE, self.name)

    @property
    def auth_url(self) -> str:
        """As auth connects."""
        return self.server.url(AUTH_ROLE, self.name)

    @property
    def socket(self) -> str:
        """The path of the socket that the server listens on."""
        (directory,) = parse_qs(urlsplit(self.app_url).query)["host"]
        return f"{directory}/.s.PGSQL.5432"

    def dump(self, without: Container[str] = ()) -> str:
        """Return every row of every table but some, as text: for looking for what must not be there."""
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
            connection.execute("SET session_replication_role = replica")  # what refuses deletions does not act in it
            for table in METADATA.tables:
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, stopped at the end of the run. Its folder's path is short: a socket is in it."""
    directory = Path(tempfile.mkdtemp(prefix="ibex-postgres-"))
    server = PostgresServer(directory / "postgres")
    try:
        server.start()
        with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here need outlive the machine
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> PostgresDatabase:
    """The database that tests share; ask for ``postgres``, which is this one emptied."""
    database = PostgresDatabase(postgres_server, DATABASE)
    migrate.upgrade(database.owner_url)
    return database


@pytest.fixture(scope="module")
def module_postgres(migrated_postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """The same, for all tests of a module together."""
    yield migrated_postgres
    migrated_postgres.server.start()
    migrated_postgres.empty()


@pytest.fixture
def postgres(migrated_postgres: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """A database of the newest schema without any row, on a server that runs, for one test."""
    yield migrated_postgres
    migrated_postgres.server.start()  # the test may have stopped it
    migrated_postgres.empty()


@contextmanager
def another_database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """Make a database without any table, which IBEX's owner owns, and drop it afterwards."""
    name = f"another_{uuid4().hex}"
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        identifiers = (sql.Identifier(name), sql.Identifier(OWNER_ROLE))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*identifiers))
        yield PostgresDatabase(server, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database without any table, which IBEX's owner owns, for one test."""
    with another_database(postgres_server) as database:
        yield database
