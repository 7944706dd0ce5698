"""Tests of the tables on a single server and on a cluster.

What a cluster runs is only compared with a file here: the engine of the tests has no ClickHouse Keeper.
``tests/integration/test_clickhouse_cluster.py`` lets the engine parse it.
"""

from __future__ import annotations

import pytest

from harness.clickhouse_ddl import FILE, LAYOUT, as_file, cluster_statements
from ibex.adapters.clickhouse.layout import Layout, UnknownStatementError, deduplication_window, window_of
from ibex.adapters.clickhouse.migrate import migrations
from ibex.adapters.clickhouse.trace_queries import COLUMNS


def test_the_statements_for_a_cluster_are_those_of_the_file() -> None:
    """`make clickhouse-ddl` writes the file anew, so that a reviewer sees every change."""
    assert FILE.read_text() == as_file(cluster_statements())


def test_every_statement_runs_on_the_whole_cluster() -> None:
    """A server without it would reject rows or questions."""
    assert [one for one in cluster_statements() if " ON CLUSTER 'main'" not in one] == []


def test_both_tables_of_a_cluster_get_every_column() -> None:
    """The Distributed table has the columns of the tables behind it."""
    added = [one for one in cluster_statements() if "ADD COLUMN" in one]
    for table in ("llm_traces", "llm_traces_local"):
        altered = " ".join(one for one in added if f"}}.{table} ON" in one)
        assert "ADD COLUMN IF NOT EXISTS user_id" in altered
    assert len(added) == 2 * sum("ADD COLUMN" in one for m in migrations() for one in m.statements)
    assert all(name in as_file(cluster_statements()) for name in COLUMNS)


def test_a_statement_that_a_cluster_cannot_run_is_refused() -> None:
    """A migration must say what it means for both tables."""
    for statement in ("SELECT 1", "ALTER TABLE {database:Identifier}.llm_traces DROP COLUMN model"):
        with pytest.raises(UnknownStatementError):
            LAYOUT.render(statement)


def test_a_single_server_runs_the_files_as_they_are() -> None:
    """Only the size of the deduplication window differs."""
    layout = Layout("ibex", batches_per_second=5)
    for migration in migrations():
        for statement in migration.statements:
            assert layout.render(statement) == [statement.replace("window = 10000", "window = 18000")]


@pytest.mark.parametrize("engine", ["ReplicatedMergeTree", "SharedMergeTree"])
def test_a_replicated_table_remembers_batches_by_time(engine: str) -> None:
    """An hour, and as many batches as come in it. Asynchronous inserts had settings of their own."""
    assert deduplication_window(engine, 20) == {
        "replicated_deduplication_window": 72_000,
        "replicated_deduplication_window_seconds": 3_600,
        "replicated_deduplication_window_for_async_inserts": 72_000,
        "replicated_deduplication_window_seconds_for_async_inserts": 3_600,
    }


def test_a_window_is_read_from_the_definition_of_the_table() -> None:
    """A setting whose name ends alike is another one."""
    definition = "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 7, index_granularity = 8192"
    assert window_of(definition, "non_replicated_deduplication_window") == 7
    assert window_of(definition, "replicated_deduplication_window") is None


def test_names_with_quotes_are_quoted() -> None:
    """The database is the operator's to name."""
    (_, front) = Layout("o'`", "main").render(migrations()[0].statements[0])
    assert "Distributed('main', 'o\\'\\`', 'llm_traces_local'" in front
