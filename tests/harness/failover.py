"""Two real PostgreSQL servers behind a relay: a primary, and a synchronous streaming standby that can take over.

The standby is made with ``pg_basebackup``, and a fail-over is a real promotion. Replication is synchronous:
with asynchronous replication, a crash of the primary loses commits that it has confirmed, whatever a client does.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psycopg

from harness.postgres import PostgresDatabase
from harness.relay import Relay
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.server import DATABASE, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import LiteralString

WAIT_S = 20.0
POLL_S = 0.02
# The data need not survive a crash of the machine.
_SETTINGS = (
    *("wal_level = replica", "max_wal_senders = 4", "wal_retrieve_retry_interval = '100ms'"),
    *("fsync = off", "max_connections = 200"),
)


class ReplicatedServer(PostgresServer):
    """A server that can be a primary or a standby."""

    def start_primary(self) -> None:
        """Start the server, with the settings of replication."""
        self.start()
        for setting in _SETTINGS:
            self.run(f"ALTER SYSTEM SET {setting}")
        self.restart()

    def start_standby_of(self, primary: ReplicatedServer) -> None:
        """Replace the server's data by a copy of the primary's, and follow it synchronously."""
        primary.run("ALTER SYSTEM RESET synchronous_standby_names")  # otherwise the copy would wait for a standby too
        primary.run("SELECT pg_reload_conf()")
        self._make_directories()
        shutil.rmtree(self._data, ignore_errors=True)
        source = f"--dbname={primary.superuser_url()}"
        self._run("pg_basebackup", f"--pgdata={self._data.name}", source, "-R", "--checkpoint=fast", "--no-sync")
        self.start()
        primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.run("SELECT pg_reload_conf()")
        primary.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", 1)

    def promote(self) -> None:
        """Make the standby the primary, and return once it accepts changes."""
        self._pg_ctl("promote")

    def begin_read_only(self) -> None:
        """Let every session be read-only from its next transaction on. Sessions stay open."""
        self.run("ALTER SYSTEM SET default_transaction_read_only = on")
        self.run("SELECT pg_reload_conf()")
        self.wait_for(
            "SELECT count(*) FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'", 1
        )

    def wait_for(self, query: LiteralString, expected: object) -> None:
        """Wait until a query of one value returns what is expected."""
        deadline = time.monotonic() + WAIT_S
        while (found := self.run(query)) != [(expected,)]:
            assert time.monotonic() < deadline, f"{query}: {found}"
            time.sleep(POLL_S)  # PostgreSQL sends no notification

    def run(self, statement: LiteralString) -> list[tuple[object, ...]]:
        """Run a statement as the superuser, and return its rows."""
        with psycopg.connect(self.superuser_url(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@dataclass(slots=True)
class PostgresPair:
    """A primary and its standby. ``relay`` leads to the primary, as the address of an HA solution does."""

    primary: ReplicatedServer
    standby: ReplicatedServer
    relay: Relay

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[PostgresPair]:
        """Start both servers with a migrated database, and stop them afterwards."""
        first, second = ReplicatedServer(folder / "one"), ReplicatedServer(folder / "two")
        try:
            first.start_primary()
            migrate.upgrade(PostgresDatabase(first, DATABASE).owner_url)
            second.start_standby_of(first)
            with Relay.running(f"{_folder(first)}/.s.PGSQL.5432") as relay:
                yield cls(first, second, relay)
        finally:
            for server in (first, second):
                server.stop(immediate=True)

    @property
    def database(self) -> PostgresDatabase:
        """The database on the current primary, by a direct connection."""
        return PostgresDatabase(self.primary, DATABASE)

    @property
    def primary_socket(self) -> str:
        """The path of the primary's socket."""
        return f"{_folder(self.primary)}/.s.PGSQL.5432"

    @property
    def standby_socket(self) -> str:
        """The path of the standby's socket."""
        return f"{_folder(self.standby)}/.s.PGSQL.5432"

    @property
    def hosts(self) -> str:
        """Both servers as hosts of a URL, the standby first."""
        return f"{_folder(self.standby)},{_folder(self.primary)}"

    def fail_over(self) -> None:
        """Crash the primary and promote the standby. All sessions end."""
        self.primary.stop(immediate=True)
        self._take_over()

    def fail_over_beside_open_sessions(self) -> None:
        """Promote the standby beside the primary, which keeps its sessions and is read-only from now on."""
        self.primary.begin_read_only()
        self._take_over()

    def rebuild(self) -> None:
        """Make the former primary the standby of the current one."""
        self.standby.stop(immediate=True)
        self.standby.start_standby_of(self.primary)

    def _take_over(self) -> None:
        self.standby.promote()
        self.relay.redirect(self.standby_socket)
        self.primary, self.standby = self.standby, self.primary


def _folder(server: PostgresServer) -> str:
    (folder,) = parse_qs(urlsplit(server.url("any")).query)["host"]
    return folder
