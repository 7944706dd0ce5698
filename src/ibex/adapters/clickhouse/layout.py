"""The tables of traces on a single server and on a cluster (ADR 0059).

A migration is written for a single server. On a cluster, every server has a replicated table ``llm_traces_local``, and
a ``Distributed`` table ``llm_traces`` in front of it. IBEX writes to the former and reads from the latter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clickhouse_connect.driver.binding import format_str, quote_identifier

from ibex.adapters.clickhouse.trace_queries import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCAL_TABLE: Final = f"{TABLE}_local"
LEDGER: Final = "schema_migrations"
"""The table that records each applied migration."""
HOUR_S: Final = 3_600
BATCHES_PER_SECOND: Final = 20
"""The default of the expected rate of all workers together. A worker writes at most 5 batches a second."""

_LEDGER_COLUMNS: Final = (
    "(version UInt32, name String, checksum String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6))"
)
_TABLE_NAME: Final = f"{{database:Identifier}}.{TABLE}"
_STATEMENT: Final = re.compile(
    rf"(?P<head>CREATE TABLE IF NOT EXISTS|ALTER TABLE) {re.escape(_TABLE_NAME)}\s+(?P<rest>.*)", re.DOTALL
)
_ENGINE: Final = "ENGINE = MergeTree\n"
_SINGLE_WINDOW: Final = "non_replicated_deduplication_window"
_WINDOW: Final = re.compile(rf"{_SINGLE_WINDOW} = \d+")


def deduplication_window(engine: str, batches_per_second: int) -> Mapping[str, int]:
    """Return the table settings with which a table with this engine remembers the batches of an hour.

    A replicated table also forgets a batch after an hour. It had separate settings for asynchronous inserts before
    version 26.6.
    """
    batches = batches_per_second * HOUR_S
    if not is_replicated(engine):
        return {_SINGLE_WINDOW: batches}
    return {
        "replicated_deduplication_window": batches,
        "replicated_deduplication_window_seconds": HOUR_S,
        "replicated_deduplication_window_for_async_inserts": batches,
        "replicated_deduplication_window_seconds_for_async_inserts": HOUR_S,
    }


def is_replicated(engine: str) -> bool:
    """Return whether a table with this engine has its deduplication window in ClickHouse Keeper.

    ClickHouse Cloud replaces MergeTree with SharedMergeTree.
    """
    return engine.startswith(("Replicated", "Shared")) and engine.endswith("MergeTree")


def settings_clause(settings: Mapping[str, int]) -> str:
    """Return the settings as they appear after ``SETTINGS`` and ``MODIFY SETTING``."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def window_of(definition: str, setting: str) -> int | None:
    """Return a setting of a table from its ``engine_full``; None if it has the server's default."""
    found = re.search(rf"\b{setting} = (\d+)", definition)
    return None if found is None else int(found[1])


class UnknownStatementError(Exception):
    """A migration has a statement that cannot be rendered for a cluster."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names and engines of IBEX's tables in a database. ``cluster`` is None on a single server and in Cloud."""

    database: str
    cluster: str | None = None
    batches_per_second: int = BATCHES_PER_SECOND

    @property
    def written(self) -> str:
        """The name of the table that rows are written to."""
        return TABLE if self.cluster is None else LOCAL_TABLE

    @property
    def create_database(self) -> str:
        """The statement that creates the database if it does not exist."""
        return f"CREATE DATABASE IF NOT EXISTS {{database:Identifier}}{self.on_cluster}"

    @property
    def create_ledger(self) -> str:
        """The statement that creates the table of applied migrations, of which each server of a cluster has a copy."""
        engine = "MergeTree"
        if self.cluster is not None:
            engine = f"ReplicatedMergeTree({self._keeper_path(LEDGER)}, '{{shard}}-{{replica}}')"
        return (
            f"CREATE TABLE IF NOT EXISTS {{database:Identifier}}.{LEDGER}{self.on_cluster}\n"
            f"{_LEDGER_COLUMNS}\nENGINE = {engine} ORDER BY version"
        )

    def render(self, statement: str) -> list[str]:
        """Return the statements that have the effect of a migration's statement on these tables.

        Raises ``UnknownStatementError`` on a cluster, if it neither creates nor alters the table of traces.
        """
        if self.cluster is None:
            window = settings_clause(deduplication_window("MergeTree", self.batches_per_second))
            return [_WINDOW.sub(window, statement)]
        found = _STATEMENT.fullmatch(statement)
        if found is None:
            raise UnknownStatementError
        if found["head"] == "ALTER TABLE":
            return self._altered(found["rest"])
        return self._created(found["rest"])

    def alter_written(self, change: str) -> str:
        """Return the statement that changes the table that rows are written to, on every server."""
        return f"ALTER TABLE {{database:Identifier}}.{self.written}{self.on_cluster} {change}"

    @property
    def on_cluster(self) -> str:
        """The clause that runs a statement on every server of the cluster; empty without one."""
        return "" if self.cluster is None else f" ON CLUSTER {format_str(self.cluster)}"

    def _altered(self, change: str) -> list[str]:
        local = self.alter_written(change)
        if change.startswith("ADD INDEX"):
            return [local]
        if not change.startswith("ADD COLUMN"):
            raise UnknownStatementError
        return [local, f"ALTER TABLE {_TABLE_NAME}{self.on_cluster} {change}"]

    def _created(self, columns_and_engine: str) -> list[str]:
        engine = f"ReplicatedMergeTree({self._keeper_path('{shard}', LOCAL_TABLE)}, '{{replica}}')"
        window = settings_clause(deduplication_window(engine.partition("(")[0], self.batches_per_second))
        replicated = _WINDOW.sub(window, columns_and_engine.replace(_ENGINE, f"ENGINE = {engine}\n"))
        return [
            f"CREATE TABLE IF NOT EXISTS {{database:Identifier}}.{LOCAL_TABLE}{self.on_cluster}\n{replicated}",
            self._create_front,
        ]

    @property
    def _create_front(self) -> str:
        """The statement that creates the Distributed table. IBEX writes nothing through it: its key is for operators.

        A query parameter cannot be used after AS, nor in the arguments of the engine.
        """
        database = quote_identifier(self.database)
        arguments = ", ".join(map(format_str, (self.cluster or "", self.database, LOCAL_TABLE)))
        return (
            f"CREATE TABLE IF NOT EXISTS {database}.{TABLE}{self.on_cluster}\nAS {database}.{LOCAL_TABLE}\n"
            f"ENGINE = Distributed({arguments}, sipHash64(emitter_id))"
        )

    def _keeper_path(self, *parts: str) -> str:
        """Return the quoted path of a replicated table in Keeper. Servers fill in the macro ``{shard}``."""
        table = parts[-1]
        path: str = format_str("/".join(("/clickhouse/tables", self.cluster or "", *parts[:-1], self.database, table)))
        return path
