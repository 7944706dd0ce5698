"""Every query about traces finds its rows by the primary key, as ClickHouse's EXPLAIN reports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from harness.explained import explained
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.trace_queries import COLUMNS, EMITTERS, FIND, INSERTED, SLOW, SUMMARY, TAIL, TIMELINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clickhouse_connect.driver.client import Client

    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration

ORGS = 10
ROWS = 200_000
ORG = "00000000-0000-0000-0000-000000000003"
HOUR_US = 3_600_000_000
NOW_US = time.time_ns() // 1_000
# Ten organizations with ten agents each over the last twenty days: some two thousand rows an agent.
_FILL = """
INSERT INTO {database:Identifier}.llm_traces (org_id, agent_id, requested_at, completed_at, emitter_id, emitter_seq)
SELECT toUUID('00000000-0000-0000-0000-00000000000' || toString(number % 10)),
       toUUID('00000000-0000-0000-0001-00000000000' || toString(intDiv(number, 10) % 10)),
       now64(6, 'UTC') - toIntervalMillisecond(({rows:UInt64} - number) * 8640) AS asked,
       asked, generateUUIDv7(), number
FROM numbers({rows:UInt64})
"""


@pytest.fixture(scope="module")
def client(module_clickhouse: ClickHouseDatabase) -> Iterator[Client]:
    """A client of a database with many traces."""
    client = module_clickhouse.client()
    client.command(_FILL, parameters={"database": module_clickhouse.name, "rows": ROWS})
    client.command(
        "OPTIMIZE TABLE {database:Identifier}.llm_traces FINAL", parameters={"database": module_clickhouse.name}
    )
    yield client
    disconnect(client)


@pytest.mark.parametrize(
    ("query", "bound"),
    [
        (TAIL, {"limit": 20}),
        (SUMMARY, {}),
        (TIMELINE, {"slice_us": HOUR_US // 60}),
        (SLOW, {"limit": 10}),
        (FIND, {"request_id": ORG, "from_us": NOW_US - HOUR_US, "until_us": NOW_US + HOUR_US, "limit": 100}),
    ],
    ids=["tail", "summary", "timeline", "slow", "find"],
)
def test_a_query_of_an_organization_reads_its_part_of_the_table(
    client: Client, module_clickhouse: ClickHouseDatabase, query: str, bound: Mapping[str, object]
) -> None:
    """Organization and time are in the key: it reads only the few granules with rows of that range."""
    values = {"database": module_clickhouse.name, "org_id": ORG, "span_us": HOUR_US, **bound}

    (read,) = explained(client, query, values)

    assert [index.kind for index in read] == ["MinMax", "Partition", "PrimaryKey"]
    assert read[-1].keys == ("org_id", "requested_at")
    assert read[-1].selected <= read[0].of // 4


def test_following_reads_recently_inserted_rows(client: Client, module_clickhouse: ClickHouseDatabase) -> None:
    """This runs twice a second. The skip index leaves only granules with new rows."""
    values = {"database": module_clickhouse.name, "org_id": ORG, "since_us": NOW_US - 60_000_000}

    (read,) = explained(client, INSERTED, values)

    assert [index.kind for index in read][-2:] == ["PrimaryKey", "Skip"]
    assert read[-1].selected <= 2


def test_searching_for_gaps_reads_no_month_before_its_span(
    client: Client, module_clickhouse: ClickHouseDatabase
) -> None:
    """It covers all organizations. Time limits it by part, by partition and in the key, in each read."""
    values = {"database": module_clickhouse.name, "span_us": HOUR_US}

    reads = explained(client, EMITTERS, values)

    assert len(reads) == 2
    for read in reads:
        assert [index.kind for index in read] == ["MinMax", "Partition", "PrimaryKey"]
        assert all("requested_at" in " ".join(index.keys) for index in read)


def test_the_columns_are_those_of_the_table(client: Client, module_clickhouse: ClickHouseDatabase) -> None:
    """Rows are written and read by these names. ClickHouse sets the time of insertion itself."""
    found = client.query(
        "SELECT name FROM system.columns WHERE database = {name:String} AND table = 'llm_traces' ORDER BY position",
        parameters={"name": module_clickhouse.name},
    ).result_rows
    assert [row[0] for row in found if row[0] != "inserted_at"] == list(COLUMNS)
