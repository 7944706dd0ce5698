"""Schema migrations of ClickHouse: the files in ``migrations``, applied in order, each once.

ClickHouse has no transactions over several statements, so every statement of a file must be idempotent: the next run
finishes an interrupted one. The table ``schema_migrations`` records each applied file with its checksum. ``Layout``
renders the statements for a cluster.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect, reason_of
from ibex.adapters.clickhouse.layout import (
    BATCHES_PER_SECOND,
    LEDGER,
    Layout,
    UnknownStatementError,
    deduplication_window,
    is_replicated,
    settings_clause,
    window_of,
)
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
_APPLIED: Final = f"SELECT version, any(checksum) FROM {{database:Identifier}}.{LEDGER} GROUP BY version"  # noqa: S608
_RECORD: Final = f"""
INSERT INTO {{database:Identifier}}.{LEDGER} (version, name, checksum)
SELECT {{version:UInt32}}, {{name:String}}, {{checksum:String}}
"""
_TABLES: Final = """
SELECT name, engine, engine_full FROM system.tables
WHERE database = {database:String} AND name IN {names:Array(String)}
"""
# What to do about the errors that a cluster causes, by ClickHouse's code.
_ADVICE: Final[Mapping[int, str]] = {
    **dict.fromkeys((170, 701), "the server has no such cluster; see SELECT DISTINCT cluster FROM system.clusters"),
    139: "every server of the cluster needs the macros shard and replica",
    159: "some server of the cluster did not apply a statement in time; run `ibex migrate` again when all of them run",
    225: "the server is not connected to ClickHouse Keeper, which a cluster needs",
    392: "the server has no distributed_ddl section, which a cluster needs",
}


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


def migrate(
    url: str,
    *,
    ttl_days: int = TTL_DAYS,
    cluster: str | None = None,
    batches_per_second: int = BATCHES_PER_SECOND,
    files: Sequence[Migration] | None = None,
) -> list[str]:
    """Apply all pending migrations, the TTL and the deduplication window.

    Return what was applied, empty if everything was up to date. Creates the database if it does not exist. ClickHouse
    deletes traces ``ttl_days`` after the start of their day, and remembers the batches of an hour at this rate. A
    larger window is left as it is. With ``cluster``, every statement runs on every server of that cluster.

    Raises ``MigrationError``, ``NewerSchemaError`` if the database has a migration that is not in ``files``, and
    ``ValueError`` for an invalid URL (see ``ClickHouseAddress.parse``).
    """
    wanted = migrations() if files is None else files
    with _migrator(url, cluster, batches_per_second) as migrator:
        return migrator.run(wanted, ttl_days)


def pending(
    url: str,
    *,
    ttl_days: int = TTL_DAYS,
    cluster: str | None = None,
    batches_per_second: int = BATCHES_PER_SECOND,
    files: Sequence[Migration] | None = None,
) -> list[str]:
    """Return what ``migrate`` would apply, in order. Changes nothing. Raises as ``migrate`` does."""
    wanted = migrations() if files is None else files
    with _migrator(url, cluster, batches_per_second) as migrator:
        return migrator.pending(wanted, ttl_days)


@contextmanager
def _migrator(url: str, cluster: str | None, batches_per_second: int) -> Iterator[_Migrator]:
    address = ClickHouseAddress.parse(url)
    try:
        client = address.connect(_TIMEOUT_S)
        try:
            yield _Migrator(client, Layout(address.database, cluster, batches_per_second))
        finally:
            disconnect(client)
    except MigrationError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises many types
        advice = _ADVICE.get(getattr(error, "code", None) or 0)
        reason = f"{reason_of(error)}: {advice}" if cluster and advice else reason_of(error)
        raise MigrationError(f"cannot migrate ClickHouse ({reason})") from None


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the table's settings: the clause of ALTER TABLE, and its description."""

    clause: str
    description: str


class _Migrator:
    def __init__(self, client: Client, layout: Layout) -> None:
        self._client = client
        self._layout = layout

    def run(self, wanted: Sequence[Migration], ttl_days: int) -> list[str]:
        self._refuse_other_layout()
        self._create_database()
        self._execute(self._layout.create_ledger)
        applied = {row[0]: row[1] for row in self._rows(_APPLIED)}
        _check(applied, wanted)
        missing = [migration for migration in wanted if migration.version not in applied]
        for migration in missing:
            self._apply(migration)
        changes = self._changes(ttl_days)
        for change in changes:
            self._execute(self._layout.alter_written(change.clause))
        return [migration.name for migration in missing] + [change.description for change in changes]

    def pending(self, wanted: Sequence[Migration], ttl_days: int) -> list[str]:
        self._refuse_other_layout()
        applied = {row[0]: row[1] for row in self._rows(_APPLIED)} if self._tables(LEDGER) else {}
        _check(applied, wanted)
        missing = [migration.name for migration in wanted if migration.version not in applied]
        return missing + [change.description for change in self._changes(ttl_days)]

    def _create_database(self) -> None:
        # Checked first, because a user without the right to create databases can still migrate an existing one. On a
        # cluster, another server may lack it.
        exists = self._rows("SELECT 1 FROM system.databases WHERE name = {database:String}")
        if not exists or self._layout.cluster is not None:
            self._execute(self._layout.create_database)

    def _refuse_other_layout(self) -> None:
        """Raise ``MigrationError`` if the tables are those of a single server and a cluster is set, or vice versa."""
        for name, engine, _ in self._tables(TABLE, LEDGER):
            if self._layout.cluster is None and engine == "Distributed":
                raise MigrationError(f"the table {name} belongs to a cluster; set IBEX_CLICKHOUSE_CLUSTER to its name")
            if self._layout.cluster is not None and engine != "Distributed" and not is_replicated(engine):
                raise MigrationError(
                    f"the table {name} of the database {self._layout.database} belongs to a single server ({engine});"
                    " name another database in the URL, or do not set IBEX_CLICKHOUSE_CLUSTER"
                )

    def _apply(self, migration: Migration) -> None:
        try:
            rendered = [one for statement in migration.statements for one in self._layout.render(statement)]
        except UnknownStatementError:
            raise MigrationError(f"the migration {migration.name} cannot be applied to a cluster") from None
        for statement in rendered:
            self._execute(statement)
        self._execute(_RECORD, version=migration.version, name=migration.name, checksum=migration.checksum)

    def _changes(self, ttl_days: int) -> list[_Change]:
        """Return the changes that the written table needs; empty if there is no table."""
        tables = self._tables(self._layout.written)
        if not tables:
            return []
        ((_, engine, definition),) = tables
        return [*self._ttl_change(definition, ttl_days), *self._window_change(engine, definition)]

    def _ttl_change(self, definition: str, days: int) -> list[_Change]:
        found = _TTL.search(definition)
        if found and int(found["days"]) == days:
            return []
        clause = f"MODIFY TTL toDate(requested_at) + toIntervalDay({days:d})"
        return [_Change(clause, f"a time to live of {days} days")]

    def _window_change(self, engine: str, definition: str) -> list[_Change]:
        wanted = deduplication_window(engine, self._layout.batches_per_second)
        small = {name: least for name, least in wanted.items() if (window_of(definition, name) or 0) < least}
        changeable = self._changeable(small)
        if not changeable:
            return []
        clause = f"MODIFY SETTING {settings_clause(changeable)}"
        return [_Change(clause, f"a deduplication window of {max(wanted.values())} batches")]

    def _changeable(self, settings: Mapping[str, int]) -> Mapping[str, int]:
        """Return those of the table settings that the server has and lets change."""
        if not settings:
            return {}
        known = self._rows(
            "SELECT name FROM system.merge_tree_settings WHERE NOT readonly AND name IN {names:Array(String)}",
            names=list(settings),
        )
        return {name: settings[name] for (name,) in known}

    def _tables(self, *names: str) -> Sequence[Sequence[Any]]:
        return self._rows(_TABLES, names=list(names))

    def _execute(self, statement: str, **parameters: Any) -> None:
        has_parameters = "{database:" in statement  # without them, the library would format the text itself
        bound = {"database": self._layout.database, **parameters} if has_parameters else None
        self._client.command(statement, parameters=bound)

    def _rows(self, query: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        result = self._client.query(query, parameters={"database": self._layout.database, **parameters})
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows


def _check(applied: Mapping[int, str], wanted: Sequence[Migration]) -> None:
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(f"the migration {migration.name} was applied with different content")
    unknown = applied.keys() - {migration.version for migration in wanted}
    if unknown:
        raise NewerSchemaError(
            f"the schema is at version {max(unknown)}, this version of IBEX knows those up to {len(wanted)}"
        )
