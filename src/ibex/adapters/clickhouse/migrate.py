"""Bringing ClickHouse to the schema of this version: the files in ``migrations``, in order, each once.

ClickHouse has no transactions over statements, so every statement of a file can be run again: a run that was cut short
is finished by the next. What was applied is recorded with the file's checksum in ``schema_migrations``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect, reason_of
from ibex.adapters.clickhouse.trace_queries import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clickhouse_connect.driver.client import Client

TTL_DAYS: Final = 90
# A server may take its time over a table of many parts.
_TIMEOUT_S: Final = 60
_FOLDER: Final = Path(__file__).with_name("migrations")
_NAME = re.compile(r"(?P<version>\d{4})_\w+")
_TTL = re.compile(r"\bTTL .*?toIntervalDay\((?P<days>\d+)\)")
_RECORDS: Final = """
CREATE TABLE IF NOT EXISTS {database:Identifier}.schema_migrations
(version UInt32, name String, checksum String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6))
ENGINE = MergeTree ORDER BY version
"""

_APPLIED: Final = "SELECT version, any(checksum) FROM {database:Identifier}.schema_migrations GROUP BY version"
_RECORD: Final = """
INSERT INTO {database:Identifier}.schema_migrations (version, name, checksum)
SELECT {version:UInt32}, {name:String}, {checksum:String}
"""


class MigrationError(Exception):
    """ClickHouse could not be migrated, or is not what the files say; the message names no secret."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: ``0001_name.sql``, statements that end with a semicolon at the end of a line."""

    name: str
    text: str

    @property
    def version(self) -> int:
        """The number in front of the name, from 1 without gaps."""
        return int(self.name[:4])

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """What is to be run, in order, comments left out."""
        code = "\n".join(line for line in self.text.splitlines() if not line.startswith("--"))
        return [statement.strip() for statement in re.split(r";\s*$", code, flags=re.MULTILINE) if statement.strip()]


def migrations(folder: Path = _FOLDER) -> list[Migration]:
    """Return the files in the order of their versions. Raises ``MigrationError`` for a wrong name or a gap."""
    found = [Migration(path.stem, path.read_text()) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(found, 1):
        if not _NAME.fullmatch(migration.name) or migration.version != expected:
            raise MigrationError(f"{migration.name}.sql is not the migration of version {expected}")
    return found


def migrate(url: str, *, ttl_days: int = TTL_DAYS, files: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing and return its names; with nothing missing, nothing is changed.

    The database is created if it is not there, and traces live for ``ttl_days`` from the start of their day. Takes a
    URL as ``ClickHouseAddress.parse`` does. Raises ``MigrationError``, and ``ValueError`` for a URL that cannot be one.
    """
    address = ClickHouseAddress.parse(url)
    wanted = migrations() if files is None else files
    try:
        client = address.connect(_TIMEOUT_S)
        try:
            return _Migrator(client, address.database).run(wanted, ttl_days)
        finally:
            disconnect(client)
    except MigrationError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises whatever it likes
        raise MigrationError(f"ClickHouse cannot be migrated ({reason_of(error)})") from None


class _Migrator:
    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._database = database

    def run(self, wanted: Sequence[Migration], ttl_days: int) -> list[str]:
        # Asked first, since a user who may not create databases may still migrate one.
        if not self._rows("SELECT 1 FROM system.databases WHERE name = {database:String}"):
            self._execute("CREATE DATABASE IF NOT EXISTS {database:Identifier}")
        self._execute(_RECORDS)
        applied = {row[0]: row[1] for row in self._rows(_APPLIED)}
        _check(applied, wanted)
        missing = [migration for migration in wanted if migration.version not in applied]
        for migration in missing:
            self._apply(migration)
        return [migration.name for migration in missing] + self._apply_ttl(ttl_days)

    def _apply(self, migration: Migration) -> None:
        for statement in migration.statements:
            self._execute(statement)
        self._execute(_RECORD, version=migration.version, name=migration.name, checksum=migration.checksum)

    def _apply_ttl(self, days: int) -> list[str]:
        rows = self._rows(
            "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}",
            table=TABLE,
        )
        if not rows:
            return []
        found = _TTL.search(rows[0][0])
        if found and int(found["days"]) == days:
            return []
        self._execute(
            f"ALTER TABLE {{database:Identifier}}.{TABLE} MODIFY TTL toDate(requested_at) + toIntervalDay({days:d})"
        )
        return [f"a time to live of {days} days"]

    def _execute(self, statement: str, **parameters: Any) -> None:
        self._client.command(statement, parameters={"database": self._database, **parameters})

    def _rows(self, query: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        result = self._client.query(query, parameters={"database": self._database, **parameters})
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows


def _check(applied: Mapping[int, str], wanted: Sequence[Migration]) -> None:
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(f"{migration.name} was applied with another content")
    unknown = applied.keys() - {migration.version for migration in wanted}
    if unknown:
        raise MigrationError(f"the database is at version {max(unknown)}, which this version of IBEX does not know")
