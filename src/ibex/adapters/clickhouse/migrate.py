"""Schema migrations of ClickHouse: the files in ``migrations``, applied in order, each once.

ClickHouse has no transactions over several statements, so every statement of a file must be idempotent: the next run
finishes an interrupted one. The table ``schema_migrations`` records each applied file with its checksum.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect, reason_of
from ibex.adapters.clickhouse.trace_queries import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

TTL_DAYS: Final = 90
# Altering a table of many parts can take long.
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
    """ClickHouse could not be migrated, or its schema does not match the files. The message contains no secret."""


class NewerSchemaError(MigrationError):
    """The schema is newer than this version of IBEX, so there is nothing to migrate."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file, ``0001_name.sql``, with statements that each end with a semicolon at the end of a line."""

    name: str
    text: str

    @property
    def version(self) -> int:
        """The number at the start of the name: from 1, without gaps."""
        return int(self.name[:4])

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements in order, without comments."""
        code = "\n".join(line for line in self.text.splitlines() if not line.startswith("--"))
        return [statement.strip() for statement in re.split(r";\s*$", code, flags=re.MULTILINE) if statement.strip()]


def migrations(folder: Path = _FOLDER) -> list[Migration]:
    """Return the migrations ordered by version. Raises ``MigrationError`` for an invalid file name or a gap."""
    found = [Migration(path.stem, path.read_text()) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(found, 1):
        if not _NAME.fullmatch(migration.name) or migration.version != expected:
            raise MigrationError(f"unexpected file {migration.name}.sql: its name must be {expected:04d}_<name>.sql")
    return found


def migrate(url: str, *, ttl_days: int = TTL_DAYS, files: Sequence[Migration] | None = None) -> list[str]:
    """Apply all pending migrations and the TTL; return what was applied, empty if everything was up to date.

    Creates the database if it does not exist. ClickHouse deletes traces ``ttl_days`` after the start of their day.
    Raises ``MigrationError``, ``NewerSchemaError`` if the database has a migration that is not in ``files``, and
    ``ValueError`` for an invalid URL (see ``ClickHouseAddress.parse``).
    """
    wanted = migrations() if files is None else files
    with _migrator(url) as migrator:
        return migrator.run(wanted, ttl_days)


def pending(url: str, *, ttl_days: int = TTL_DAYS, files: Sequence[Migration] | None = None) -> list[str]:
    """Return what ``migrate`` would apply, in order. Changes nothing. Raises as ``migrate`` does."""
    wanted = migrations() if files is None else files
    with _migrator(url) as migrator:
        return migrator.pending(wanted, ttl_days)


@contextmanager
def _migrator(url: str) -> Iterator[_Migrator]:
    address = ClickHouseAddress.parse(url)
    try:
        client = address.connect(_TIMEOUT_S)
        try:
            yield _Migrator(client, address.database)
        finally:
            disconnect(client)
    except MigrationError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises many types
        raise MigrationError(f"cannot migrate ClickHouse ({reason_of(error)})") from None


class _Migrator:
    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._database = database

    def run(self, wanted: Sequence[Migration], ttl_days: int) -> list[str]:
        # Checked first, because a user without the right to create databases can still migrate an existing one.
        if not self._rows("SELECT 1 FROM system.databases WHERE name = {database:String}"):
            self._execute("CREATE DATABASE IF NOT EXISTS {database:Identifier}")
        self._execute(_RECORDS)
        applied = {row[0]: row[1] for row in self._rows(_APPLIED)}
        _check(applied, wanted)
        missing = [migration for migration in wanted if migration.version not in applied]
        for migration in missing:
            self._apply(migration)
        return [migration.name for migration in missing] + self._apply_ttl(ttl_days)

    def pending(self, wanted: Sequence[Migration], ttl_days: int) -> list[str]:
        has_records = self._rows(
            "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = 'schema_migrations'"
        )
        applied = {row[0]: row[1] for row in self._rows(_APPLIED)} if has_records else {}
        _check(applied, wanted)
        missing = [migration.name for migration in wanted if migration.version not in applied]
        found = self._ttl_days()
        return missing if found is None or found == ttl_days else [*missing, _described_ttl(ttl_days)]

    def _apply(self, migration: Migration) -> None:
        for statement in migration.statements:
            self._execute(statement)
        self._execute(_RECORD, version=migration.version, name=migration.name, checksum=migration.checksum)

    def _apply_ttl(self, days: int) -> list[str]:
        found = self._ttl_days()
        if found is None or found == days:
            return []
        self._execute(
            f"ALTER TABLE {{database:Identifier}}.{TABLE} MODIFY TTL toDate(requested_at) + toIntervalDay({days:d})"
        )
        return [_described_ttl(days)]

    def _ttl_days(self) -> int | None:
        """Return the days after which traces are deleted; 0 for never, None if there is no table."""
        rows = self._rows(
            "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}",
            table=TABLE,
        )
        if not rows:
            return None
        found = _TTL.search(rows[0][0])
        return int(found["days"]) if found else 0

    def _execute(self, statement: str, **parameters: Any) -> None:
        self._client.command(statement, parameters={"database": self._database, **parameters})

    def _rows(self, query: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        result = self._client.query(query, parameters={"database": self._database, **parameters})
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows


def _described_ttl(days: int) -> str:
    return f"a time to live of {days} days"


def _check(applied: Mapping[int, str], wanted: Sequence[Migration]) -> None:
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(f"the migration {migration.name} was applied with different content")
    unknown = applied.keys() - {migration.version for migration in wanted}
    if unknown:
        raise NewerSchemaError(
            f"the schema is at version {max(unknown)}, this version of IBEX knows those up to {len(wanted)}"
        )
