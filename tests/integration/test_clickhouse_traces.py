"""Traces on a real ClickHouse: rejected rows and lost responses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import pytest

from harness.exchanges import an_exchange
from harness.relay import Relay
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError
from ibex.domain.record.traces import Trace, trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration

ORG = UUID("0190c0de-0000-7000-8000-0000000000a1")


@pytest.fixture
async def traces(clickhouse: ClickHouseDatabase) -> AsyncIterator[ClickHouseTraces]:
    """The store over an empty database."""
    traces = ClickHouseTraces(clickhouse.url)
    await traces.open()
    yield traces
    await traces.close()


def _trace(**changes: Any) -> Trace:
    trace = trace_of(an_exchange())
    assert trace is not None
    now = datetime.now(UTC)  # rows older than the time to live are deleted
    return replace(trace, **{"request_id": uuid4(), "org_id": ORG, "requested_at": now, "completed_at": now, **changes})


def _tell(database: ClickHouseDatabase, statement: str) -> Any:
    client = database.client()
    try:
        return client.command(statement, parameters={"name": database.name})
    finally:
        disconnect(client)


async def test_a_row_that_violates_a_constraint_is_refused(
    clickhouse: ClickHouseDatabase, traces: ClickHouseTraces
) -> None:
    """The whole batch is refused and nothing stored, so that delivery can halve it. Without the row, it is stored."""
    _tell(clickhouse, "ALTER TABLE {name:Identifier}.llm_traces ADD CONSTRAINT short CHECK length(model) < 100")
    good, bad = _trace(), _trace(model="m" * 100)
    with pytest.raises(SinkRefusedError, match="code 469") as caught:
        await traces.write([good, bad], "a-batch")
    assert "mmm" not in str(caught.value)
    assert list(await traces.tail(ORG, 10)) == []
    await traces.write([good], "a-batch.0")
    assert list(await traces.tail(ORG, 10)) == [good]


async def test_a_missing_table_refuses_no_row(clickhouse: ClickHouseDatabase, traces: ClickHouseTraces) -> None:
    """This is an outage. Once the table exists, the same batch is stored."""
    _tell(clickhouse, "RENAME TABLE {name:Identifier}.llm_traces TO {name:Identifier}.elsewhere")
    trace = _trace()
    with pytest.raises(SinkUnavailableError):
        await traces.write([trace], "a-batch")
    _tell(clickhouse, "RENAME TABLE {name:Identifier}.elsewhere TO {name:Identifier}.llm_traces")
    await traces.write([trace], "a-batch")
    assert list(await traces.tail(ORG, 10)) == [trace]


async def test_a_batch_whose_response_was_lost_counts_once(clickhouse: ClickHouseDatabase) -> None:
    """The batch was stored, but the link stalled before the response. The repeated batch is recognized by its token."""
    parts = urlsplit(clickhouse.url)
    assert parts.hostname is not None
    assert parts.port is not None
    with Relay.running((parts.hostname, parts.port)) as relay:
        address = (
            f"{parts.username}:{parts.password}@127.0.0.1:{relay.port}"
            if parts.username
            else (f"127.0.0.1:{relay.port}")
        )
        traces = ClickHouseTraces(urlunsplit(parts._replace(netloc=address)), timeout_s=1)
        await traces.open()
        await traces.write([_trace(emitter_seq=9)], "an-earlier-batch")
        relay.hold_answers()
        batch = [_trace(emitter_seq=n) for n in range(3)]
        with pytest.raises(SinkUnavailableError):
            await traces.write(batch, "a-batch")
        assert _tell(clickhouse, "SELECT count() FROM {name:Identifier}.llm_traces") == 4
        relay.cut()
        relay.heal()
        await traces.write(batch, "a-batch")
        assert len(await traces.tail(ORG, 10)) == 4
        await traces.close()
