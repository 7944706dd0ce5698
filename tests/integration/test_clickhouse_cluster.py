"""What the ClickHouse engine can show of a cluster: that it parses the statements, and refuses the wrong tables.

The engine has no Keeper, so that no test runs the statements. The contract suites of traces read through a Distributed
table. With IBEX_TEST_CLICKHOUSE_CLUSTER, the server that IBEX_TEST_CLICKHOUSE_URL names is used as a cluster.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from harness.clickhouse import CLUSTER
from harness.clickhouse_ddl import cluster_statements
from harness.exchanges import an_exchange
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.inspection import Cluster, TableState, Window
from ibex.adapters.clickhouse.migrate import MigrationError, migrate, migrations
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("statement", cluster_statements(), ids=lambda statement: statement[:40])
def test_the_engine_parses_every_statement_for_a_cluster(clickhouse: ClickHouseDatabase, statement: str) -> None:
    """A mistake in the syntax would otherwise be found on the operator's cluster."""
    client = clickhouse.client()
    try:
        client.query(f"EXPLAIN AST {statement.replace('{database:Identifier}', 'ibex')}")
    finally:
        disconnect(client)


def test_the_tables_of_a_cluster_need_its_name(module_cluster: ClickHouseDatabase) -> None:
    """Without it, rows would be written through the Distributed table, where repeated batches are not recognized."""
    with pytest.raises(MigrationError, match="llm_traces belongs to a cluster; set IBEX_CLICKHOUSE_CLUSTER"):
        migrate(module_cluster.url)


async def inspected(database: ClickHouseDatabase, cluster: str | None = None, batches: int = 0) -> TableState:
    """Return the state of the table, after that many batches of two traces each."""
    trace = trace_of(an_exchange())
    assert trace is not None
    now = datetime.now(UTC)
    rows = [replace(trace, emitter_seq=number, requested_at=now, completed_at=now) for number in range(2)]
    traces = ClickHouseTraces(database.url, cluster=cluster)
    await traces.open()
    try:
        for number in range(batches):
            await traces.write(rows, f"batch {number}")
        return await traces.inspect()
    finally:
        await traces.close()


async def test_the_cluster_is_inspected(module_cluster: ClickHouseDatabase) -> None:
    """The servers of the cluster are counted, with those that answer and those that have the table."""
    state = await inspected(module_cluster, CLUSTER)
    assert (state.front, state.engine) == ("Distributed", "MergeTree")
    assert state.cluster == Cluster(
        servers=1, shards=1, answering=1, with_table=1, shards_reached=1, is_read_only=False
    )


async def test_a_cluster_that_the_server_does_not_know_has_no_servers(module_cluster: ClickHouseDatabase) -> None:
    """Its name is likely misspelled."""
    state = await inspected(module_cluster, "no-such-cluster")
    assert state.cluster is not None
    assert state.cluster.servers == 0


async def test_the_window_and_the_batches_of_an_hour_are_counted(clickhouse: ClickHouseDatabase) -> None:
    """Batches count, and not their rows. A single server has no cluster."""
    state = await inspected(clickhouse, batches=3)
    assert (state.front, state.engine, state.cluster) == ("MergeTree", "MergeTree", None)
    assert state.window == Window(batches=72_000, busiest_hour=3)
    assert state.has_asynchronous_inserts


async def test_a_missing_table_has_no_engine(empty_clickhouse: ClickHouseDatabase) -> None:
    """The doctor then advises to migrate."""
    state = await inspected(empty_clickhouse)
    assert (state.front, state.engine, state.has_asynchronous_inserts) == ("", "", False)
    assert state.window.busiest_hour == 0


@pytest.mark.skipif(
    "IBEX_TEST_CLICKHOUSE_CLUSTER" not in os.environ, reason="IBEX_TEST_CLICKHOUSE_CLUSTER names no cluster"
)
def test_a_real_cluster_is_migrated(empty_clickhouse: ClickHouseDatabase) -> None:
    """The first run creates everything, and the second one changes nothing."""
    cluster = os.environ["IBEX_TEST_CLICKHOUSE_CLUSTER"]
    assert migrate(empty_clickhouse.url, cluster=cluster) == [migration.name for migration in migrations()]
    assert migrate(empty_clickhouse.url, cluster=cluster) == []
