"""What the ClickHouse engine can show of a cluster: that it parses the statements, and refuses the wrong tables.

The engine has no Keeper, so that no test runs the statements. The contract suites of traces read through a Distributed
table. With IBEX_TEST_CLICKHOUSE_CLUSTER, the server that IBEX_TEST_CLICKHOUSE_URL names is used as a cluster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.clickhouse import CLUSTER
from harness.clickhouse_ddl import cluster_statements
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.migrate import MigrationError, migrate, migrations
from ibex.adapters.clickhouse.traces import ClickHouseTraces

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


async def test_the_cluster_is_inspected(module_cluster: ClickHouseDatabase) -> None:
    """The servers of the cluster are counted, with those that answer and those that have the table."""
    traces = ClickHouseTraces(module_cluster.url, cluster=CLUSTER)
    await traces.open()
    try:
        state = await traces.inspect()
    finally:
        await traces.close()
    assert (state.front, state.engine) == ("Distributed", "MergeTree")
    assert state.cluster is not None
    assert (state.cluster.servers, state.cluster.shards, state.cluster.answering) == (1, 1, 1)
    assert (state.cluster.with_table, state.cluster.shards_reached) == (1, 1)


@pytest.mark.skipif(
    "IBEX_TEST_CLICKHOUSE_CLUSTER" not in os.environ, reason="IBEX_TEST_CLICKHOUSE_CLUSTER names no cluster"
)
def test_a_real_cluster_is_migrated(empty_clickhouse: ClickHouseDatabase) -> None:
    """The first run creates everything, and the second one changes nothing."""
    cluster = os.environ["IBEX_TEST_CLICKHOUSE_CLUSTER"]
    assert migrate(empty_clickhouse.url, cluster=cluster) == [migration.name for migration in migrations()]
    assert migrate(empty_clickhouse.url, cluster=cluster) == []
