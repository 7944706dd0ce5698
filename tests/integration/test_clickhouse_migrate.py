"""Migrations on a real ClickHouse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.migrate import Migration, MigrationError, NewerSchemaError, migrate, migrations, pending
from ibex.adapters.clickhouse.trace_queries import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration

NAMES = [migration.name for migration in migrations()]


@contextmanager
def connected(database: ClickHouseDatabase) -> Iterator[Client]:
    """Yield a client."""
    client = database.client()
    try:
        yield client
    finally:
        disconnect(client)


def _table(database: ClickHouseDatabase) -> dict[str, str]:
    with connected(database) as client:
        asked = "SELECT * FROM system.tables WHERE database = {name:String} AND name = 'llm_traces'"
        (row,) = client.query(asked, parameters={"name": database.name}).named_results()
        return dict(row)


def test_an_empty_server_gets_the_whole_schema(empty_clickhouse: ClickHouseDatabase) -> None:
    """This includes the database. Each file is applied and recorded with its checksum."""
    assert migrate(empty_clickhouse.url) == NAMES
    with connected(empty_clickhouse) as client:
        recorded = client.query(
            "SELECT version, name, checksum FROM {name:Identifier}.schema_migrations ORDER BY version",
            parameters={"name": empty_clickhouse.name},
        ).result_rows
    assert list(recorded) == [(m.version, m.name, m.checksum) for m in migrations()]


def test_the_table_has_the_specified_layout(clickhouse: ClickHouseDatabase) -> None:
    """This covers columns, partitions by month, sort order, 90 days to live, and the window for repeated batches."""
    table = _table(clickhouse)
    assert table["engine"] == "MergeTree"
    assert table["partition_key"] == "toYYYYMM(requested_at)"
    assert table["sorting_key"] == "org_id, agent_id, requested_at"
    assert "TTL toDate(requested_at) + toIntervalDay(90)" in table["engine_full"]
    assert "non_replicated_deduplication_window = 72000" in table["engine_full"]
    with connected(clickhouse) as client:
        described = client.query(
            "DESCRIBE TABLE {name:Identifier}.llm_traces", parameters={"name": clickhouse.name}
        ).named_results()
        own = {"inserted_at": "DateTime64(6, 'UTC')"}
        assert {row["name"]: row["type"] for row in described} == {**COLUMNS, **own}


def test_rows_from_before_inserted_at_are_not_new(empty_clickhouse: ClickHouseDatabase) -> None:
    """Following after an upgrade does not return all old rows. Rows that are written after it are new."""
    migrate(empty_clickhouse.url, files=migrations()[:2])
    columns = "(request_id, requested_at, completed_at"
    values = "generateUUIDv4(), now64(6) - toIntervalDay(2), now64(6) - toIntervalDay(1)"
    with connected(empty_clickhouse) as client:
        name = {"name": empty_clickhouse.name}
        client.command(f"INSERT INTO {{name:Identifier}}.llm_traces {columns}) SELECT {values}", parameters=name)
        migrate(empty_clickhouse.url)
        client.command(
            f"INSERT INTO {{name:Identifier}}.llm_traces {columns}, operation) SELECT {values}, 'chat.completions'",
            parameters=name,
        )
        found = client.query(
            "SELECT operation, inserted_at > now64(6) - toIntervalHour(1), inserted_at = completed_at"
            " FROM {name:Identifier}.llm_traces ORDER BY operation",
            parameters=name,
        ).result_rows
    assert [tuple(row) for row in found] == [("", 0, 1), ("chat.completions", 1, 0)]


def test_a_row_without_repeated_stands_for_one_request(clickhouse: ClickHouseDatabase) -> None:
    """Old and new proxies write to the table at the same time."""
    with connected(clickhouse) as client:
        name = {"name": clickhouse.name}
        client.command(
            "INSERT INTO {name:Identifier}.llm_traces (request_id, requested_at) SELECT generateUUIDv4(), now64(6)",
            parameters=name,
        )
        found = client.query("SELECT repeated FROM {name:Identifier}.llm_traces", parameters=name).result_rows
    assert [row[0] for row in found] == [1]


def test_a_second_run_changes_nothing(clickhouse: ClickHouseDatabase) -> None:
    """It applies nothing and does not touch the table."""
    before = _table(clickhouse)
    assert migrate(clickhouse.url) == []
    assert _table(clickhouse)["metadata_modification_time"] == before["metadata_modification_time"]


def test_the_time_to_live_is_that_of_the_setting(clickhouse: ClickHouseDatabase) -> None:
    """A changed value is applied and returned once. It can be as long as a century."""
    for days in (30, 36_500):
        assert migrate(clickhouse.url, ttl_days=days) == [f"a time to live of {days} days"]
        assert f"TTL toDate(requested_at) + toIntervalDay({days})" in _table(clickhouse)["engine_full"]
        assert migrate(clickhouse.url, ttl_days=days) == []


def test_the_deduplication_window_is_of_an_hour_of_batches(clickhouse: ClickHouseDatabase) -> None:
    """A higher rate is applied and returned once. A lower one leaves the window as it is."""
    assert migrate(clickhouse.url, batches_per_second=100) == ["a deduplication window of 360000 batches"]
    assert "non_replicated_deduplication_window = 360000" in _table(clickhouse)["engine_full"]
    assert migrate(clickhouse.url, batches_per_second=100) == []
    assert migrate(clickhouse.url, batches_per_second=1) == []


def test_a_table_of_a_single_server_is_not_made_one_of_a_cluster(clickhouse: ClickHouseDatabase) -> None:
    """Its rows would not be copied, so nothing changes."""
    before = _table(clickhouse)
    with pytest.raises(MigrationError, match=r"llm_traces .* belongs to a single server \(MergeTree\); name another"):
        migrate(clickhouse.url, cluster="main")
    assert _table(clickhouse) == before


def test_a_server_without_a_cluster_is_reported(empty_clickhouse: ClickHouseDatabase) -> None:
    """The message says where its clusters are listed."""
    with pytest.raises(MigrationError, match=r"code 701: the server has no such cluster; see .* system\.clusters"):
        migrate(empty_clickhouse.url, cluster="no-such-cluster")


def _next(name: str, later: int = 1) -> str:
    """Return a file name with a version this many after IBEX's last one."""
    return f"{len(NAMES) + later:04}_{name}"


def test_pending_files_are_applied_in_order(clickhouse: ClickHouseDatabase) -> None:
    """Later files build on earlier ones, over several runs."""
    first = [*migrations(), Migration(_next("a"), "CREATE TABLE {database:Identifier}.a (n UInt8) ENGINE = Memory;")]
    later = [*first, Migration(_next("b", 2), "ALTER TABLE {database:Identifier}.a ADD COLUMN m UInt8;\nSELECT 1;")]
    assert migrate(clickhouse.url, files=first) == [_next("a")]
    assert migrate(clickhouse.url, files=later) == [_next("b", 2)]
    with connected(clickhouse) as client:
        asked = client.query("SELECT m FROM {name:Identifier}.a LIMIT 0", parameters={"name": clickhouse.name})
    assert asked.column_names == ("m",)


def test_the_next_run_finishes_an_interrupted_one(clickhouse: ClickHouseDatabase) -> None:
    """A file whose second statement failed is not recorded, and runs again."""
    good = "CREATE TABLE IF NOT EXISTS {database:Identifier}.a (n UInt8) ENGINE = Memory;\n"
    broken = Migration(_next("a"), good + "SELECT throwIf(1);")
    with pytest.raises(MigrationError, match="FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"):
        migrate(clickhouse.url, files=[*migrations(), broken])
    assert migrate(clickhouse.url, files=[*migrations(), Migration(_next("a"), good)]) == [_next("a")]


def test_a_file_that_was_changed_after_its_application_is_refused(clickhouse: ClickHouseDatabase) -> None:
    """The record differs from the file, so nothing more is applied."""
    first, *rest = migrations()
    changed = [Migration(first.name, first.text + "\n-- changed\n"), *rest]
    with pytest.raises(MigrationError, match=f"{first.name} was applied with different content"):
        migrate(clickhouse.url, files=changed)


def test_pending_migrations_are_listed_without_a_change(empty_clickhouse: ClickHouseDatabase) -> None:
    """This includes the database itself and the time to live."""
    assert pending(empty_clickhouse.url) == NAMES
    assert pending(empty_clickhouse.url) == NAMES
    migrate(empty_clickhouse.url, files=migrations()[:2])
    assert pending(empty_clickhouse.url) == NAMES[2:]
    migrate(empty_clickhouse.url)
    assert pending(empty_clickhouse.url) == []
    assert pending(empty_clickhouse.url, ttl_days=7) == ["a time to live of 7 days"]
    assert migrate(empty_clickhouse.url) == []


def test_a_newer_database_is_refused(clickhouse: ClickHouseDatabase) -> None:
    """An older program does not touch the schema of a newer one."""
    newer = Migration(_next("newer"), "SELECT 1;")
    migrate(clickhouse.url, files=[*migrations(), newer])
    with pytest.raises(NewerSchemaError, match=f"at version {newer.version}"):
        migrate(clickhouse.url)


def test_concurrent_runs_do_no_harm(empty_clickhouse: ClickHouseDatabase) -> None:
    """Replicas that start together all end with the same schema."""
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(migrate, [empty_clickhouse.url] * 4))
    assert NAMES in outcomes
    assert migrate(empty_clickhouse.url) == []


def test_the_embedded_engine_in_this_process_is_migrated(module_chdb: ClickHouseDatabase) -> None:
    """`chdb://` gets the same table from the same files, which the fixture has applied."""
    assert migrate(module_chdb.url) == []
    assert _table(module_chdb)["sorting_key"] == "org_id, agent_id, requested_at"


def test_the_error_for_an_unreachable_server_contains_no_password() -> None:
    """The message can be shown and logged."""
    with pytest.raises(MigrationError, match="connection failed") as caught:
        migrate("http://u:canary@127.0.0.1:1/ibex")
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__
