"""Tests of traces in ClickHouse without a server. The contract suite tests the rest."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from harness.clickhouse_client import RecordingClient
from harness.exchanges import an_exchange
from ibex.adapters.clickhouse import content_coding
from ibex.adapters.clickhouse.connection import ClickHouseConnection
from ibex.adapters.clickhouse.inserts import SYNCHRONOUS
from ibex.adapters.clickhouse.trace_queries import COLUMNS
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError
from ibex.domain.record.traces import Trace, trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clickhouse_connect.driver.client import Client


def test_the_columns_are_the_fields_of_a_trace() -> None:
    """Rows become traces by the order of the columns."""
    assert list(COLUMNS) == [field.name for field in fields(Trace)]


def test_no_column_is_nullable() -> None:
    """See ADR 0007."""
    assert not [kind for kind in COLUMNS.values() if "Nullable" in kind]


def test_the_repr_shows_no_password() -> None:
    """The repr can be logged."""
    assert "canary" not in repr(ClickHouseTraces("http://u:canary@127.0.0.1:1/ibex"))


@asynccontextmanager
async def over(client: RecordingClient, cluster: str | None = None) -> AsyncIterator[ClickHouseTraces]:
    """Return traces over this client."""
    traces = ClickHouseTraces("http://u:p@127.0.0.1:1/my`db", cluster=cluster)
    traces._connection = ClickHouseConnection(lambda: cast("Client", client))  # noqa: SLF001 - there is no public setter
    await traces.open()
    yield traces
    await traces.close()


def _trace(**changes: Any) -> Trace:
    trace = trace_of(an_exchange())
    assert trace is not None
    return replace(trace, **changes)


async def test_a_batch_is_one_compressed_insert_under_its_token() -> None:
    """A row has every column, and rows are compressed with the common coding. The server waits for other batches."""
    client = RecordingClient()
    async with over(client) as traces:
        await traces.write([_trace(emitter_seq=n) for n in range(250)], "a-token")
    (insert,) = client.inserts
    coding = content_coding.choose(client.write_compression)
    rows = [json.loads(line) for line in content_coding.decode(insert["insert_block"], coding).splitlines()]
    assert [row["emitter_seq"] for row in rows] == list(range(250))
    assert list(rows[0]) == insert["column_names"] == list(COLUMNS)
    assert rows[0]["requested_at"] == "2026-01-02T03:04:05.678901Z"
    assert (insert["table"], insert["compression"]) == ("`my\\`db`.llm_traces", coding)
    assert insert["settings"]["insert_deduplication_token"] == "a-token"
    assert insert["settings"]["async_insert_busy_timeout_max_ms"] == "100"


async def test_a_cluster_is_written_to_through_the_table_of_the_server() -> None:
    """The Distributed table in front would not recognize a repeated batch."""
    client = RecordingClient(engine="ReplicatedMergeTree")
    async with over(client, cluster="main") as traces:
        await traces.write([_trace()], "a-token")
    assert client.inserts[0]["table"] == "`my\\`db`.llm_traces_local"


async def test_a_batch_that_was_refused_with_others_is_tried_by_itself() -> None:
    """Another worker's row could be the reason. The batch keeps its token and its rows."""
    client = RecordingClient(DatabaseError("", code=469))
    async with over(client) as traces:
        await traces.write([_trace()], "a-token")
    together, alone = client.inserts
    assert alone["settings"] == {**SYNCHRONOUS, "insert_deduplication_token": "a-token"}
    assert alone["insert_block"] == together["insert_block"]


async def test_the_server_is_asked_again_after_an_error() -> None:
    """The table may have been created since, or be another one."""
    client = RecordingClient(DatabaseError("", code=60), engine="")
    async with over(client) as traces:
        with pytest.raises(SinkUnavailableError):
            await traces.write([_trace()], "a-token")
        client.engine = "MergeTree"
        await traces.write([_trace()], "a-token")
    assert [insert["settings"].get("async_insert", 1) for insert in client.inserts] == [0, 1]


async def test_a_server_without_compression_gets_plain_rows() -> None:
    """The engine in this process behaves like that."""
    client = RecordingClient()
    client.write_compression = ""
    async with over(client) as traces:
        await traces.write([_trace()], "a-token")
    assert client.inserts[0]["compression"] is None
    assert json.loads(client.inserts[0]["insert_block"])["model"] == "gpt-4o"


@pytest.mark.parametrize(
    ("code", "error"),
    [(469, SinkRefusedError), (70, SinkRefusedError), (60, SinkUnavailableError), (241, SinkUnavailableError)],
)
async def test_an_invalid_value_is_a_refusal_and_any_other_error_is_an_outage(
    code: int, error: type[Exception]
) -> None:
    """A missing table or a lack of memory is an outage: no row becomes a dead letter because of it."""
    error_of_server = DatabaseError("canary", code=code)
    async with over(RecordingClient(error_of_server, error_of_server)) as traces:
        with pytest.raises(error) as caught:
            await traces.write([_trace()], "a-token")
    assert "canary" not in str(caught.value)


async def test_text_that_utf8_cannot_encode_is_refused() -> None:
    """ClickHouse would reject a lone surrogate on every retry."""
    client = RecordingClient()
    async with over(client) as traces:
        with pytest.raises(SinkRefusedError):
            await traces.write([_trace(finish_reason="\ud800")], "a-token")
    assert client.inserts == []


async def test_traces_that_are_not_open_are_unavailable() -> None:
    """This applies to every operation except writing an empty batch."""
    traces = ClickHouseTraces("http://u:p@127.0.0.1:1")
    trace = trace_of(an_exchange())
    assert trace is not None
    await traces.write([], "a-batch")
    for operation in (
        traces.write([trace], "a-batch"),
        traces.tail(UUID(int=1), 1),
        traces.summary(UUID(int=1), timedelta(hours=1)),
        traces.ping(),
    ):
        with pytest.raises(SinkUnavailableError):
            await operation
    await traces.close()
