"""The state of ClickHouse for `ibex doctor`: its version, the table of traces and the cluster (ADR 0059)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.inserts import recognizes_asynchronous
from ibex.adapters.clickhouse.layout import deduplication_window, window_of
from ibex.adapters.clickhouse.trace_queries import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from ibex.adapters.clickhouse.connection import ClickHouseAddress
    from ibex.adapters.clickhouse.layout import Layout

CONNECTIONS: Final = 6
"""The number of connections that are opened to count the shards that they reach."""

_TABLES: Final = """
SELECT name, engine, engine_full FROM system.tables
WHERE database = {database:String} AND name IN {names:Array(String)}
"""
_DEFAULTS: Final = "SELECT name, value FROM system.merge_tree_settings WHERE name IN {names:Array(String)}"
# A worker has one insert in flight, so its batches differ in the time of insertion.
_BUSIEST_HOUR: Final = """
SELECT max(batches) FROM (
    SELECT toStartOfHour(inserted_at) AS hour, uniq(emitter_id, inserted_at) AS batches
    FROM {database:Identifier}.{table:Identifier}
    WHERE requested_at >= now() - toIntervalDay(2) AND inserted_at >= now() - toIntervalDay(1)
    GROUP BY hour
)
"""
_SERVERS: Final = "SELECT count(), max(shard_num) FROM system.clusters WHERE cluster = {cluster:String}"
_ANSWERING: Final = """
SELECT count() FROM clusterAllReplicas({cluster:String}, system.one) SETTINGS skip_unavailable_shards = 1
"""
_WITH_TABLE: Final = """
SELECT count() FROM clusterAllReplicas({cluster:String}, system.tables)
WHERE database = {database:String} AND name = {table:String} SETTINGS skip_unavailable_shards = 1
"""
_REPLICA: Final = """
SELECT is_readonly, zookeeper_path FROM system.replicas WHERE database = {database:String} AND table = {table:String}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A deduplication window in batches, and the batches of the busiest hour of the last day."""

    batches: int
    busiest_hour: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """The state of a cluster: servers that it has, that answer, and that have the table; shards that were reached.

    ``is_read_only`` means that the replica on the server that was asked has lost ClickHouse Keeper.
    """

    servers: int
    shards: int
    answering: int
    with_table: int
    shards_reached: int
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class TableState:
    """The state of the tables of traces.

    ``front`` is the engine of the table that IBEX reads from, ``engine`` of the one that it writes to. Engines are
    empty if the table does not exist. ``cluster`` is None if none is set.
    """

    version: str
    front: str
    engine: str
    has_asynchronous_inserts: bool
    window: Window
    cluster: Cluster | None = None


def inspect_table(client: Client, layout: Layout) -> TableState:
    """Return the state of the table, without that of the cluster. Raises what clickhouse-connect raises."""
    names = {"database": layout.database, "names": [TABLE, layout.written]}
    found = {name: (engine, definition) for name, engine, definition in _rows(client, _TABLES, names)}
    engine, definition = found.get(layout.written, ("", ""))
    busiest = 0
    if engine:
        bound = {"database": layout.database, "table": layout.written}
        busiest = int(_rows(client, _BUSIEST_HOUR, bound)[0][0] or 0)
    return TableState(
        version=client.server_version or "",
        front=found.get(TABLE, ("", ""))[0],
        engine=engine,
        has_asynchronous_inserts=recognizes_asynchronous(client, engine),
        window=Window(_window(client, engine, definition), busiest),
    )


def inspect_cluster(client: Client, layout: Layout, address: ClickHouseAddress) -> Cluster | None:
    """Return the state of the cluster; None if no cluster is set. Opens some connections to count shards."""
    if layout.cluster is None:
        return None
    bound = {"cluster": layout.cluster, "database": layout.database, "table": layout.written}
    servers, shards = _rows(client, _SERVERS, bound)[0]
    if not servers:
        return Cluster(0, 0, 0, 0, 0, is_read_only=False)
    replicas = _rows(client, _REPLICA, bound)
    return Cluster(
        servers=servers,
        shards=shards,
        answering=_rows(client, _ANSWERING, bound)[0][0],
        with_table=_rows(client, _WITH_TABLE, bound)[0][0],
        shards_reached=_shards_reached(address, bound) if shards > 1 else 1,
        is_read_only=bool(replicas and replicas[0][0]),
    )


def _window(client: Client, engine: str, definition: str) -> int:
    """Return how many batches the table remembers. A replicated one also forgets them after an hour."""
    name = next(iter(deduplication_window(engine, 1)))
    defaults = {row[0]: int(row[1]) for row in _rows(client, _DEFAULTS, {"names": [name]})}
    found = window_of(definition, name)
    return defaults.get(name, 0) if found is None else found


def _shards_reached(address: ClickHouseAddress, bound: Mapping[str, Any]) -> int:
    """Return how many shards new connections reach: each has its own path in Keeper."""
    paths: set[str] = set()
    for _ in range(CONNECTIONS):
        client = address.connect()
        try:
            paths.update(row[1] for row in _rows(client, _REPLICA, bound))
        finally:
            disconnect(client)
    return len(paths)


def _rows(client: Client, query: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    rows: Sequence[Sequence[Any]] = client.query(query, parameters=dict(parameters)).result_rows
    return rows
