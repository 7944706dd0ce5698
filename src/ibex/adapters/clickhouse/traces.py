"""Traces in ClickHouse (spec 10): written in batches, read for one organization."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.clickhouse.connection import TIMEOUT_S, Address, Connection
from ibex.domain.records import ModelSummary
from ibex.domain.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from clickhouse_connect.driver.client import Client

TABLE: Final = "llm_traces"

COLUMNS: Final[Mapping[str, str]] = {
    "request_id": "UUID",
    "org_id": "UUID",
    "agent_id": "UUID",
    "session_id": "UUID",
    "checkpoint_id": "UUID",
    "model": "LowCardinality(String)",
    "provider": "LowCardinality(String)",
    "is_streaming": "Bool",
    "input_tokens": "UInt32",
    "output_tokens": "UInt32",
    "total_tokens": "UInt32",
    "cached_tokens": "UInt32",
    "reasoning_tokens": "UInt32",
    "auth_ms": "Float64",
    "rate_limit_ms": "Float64",
    "directive_ms": "Float64",
    "inject_ms": "Float64",
    "provider_ttfb_ms": "Float64",
    "proxy_overhead_ms": "Float64",
    "total_latency_ms": "Float64",
    "status_code": "UInt16",
    "is_complete": "Bool",
    "error_code": "LowCardinality(String)",
    "finish_reason": "LowCardinality(String)",
    "attempts": "UInt32",
    "directive_version_id": "UUID",
    "directive_hash": "LowCardinality(String)",
    "auth_cache": "LowCardinality(String)",
    "requested_at": "DateTime64(6, 'UTC')",
    "completed_at": "DateTime64(6, 'UTC')",
    "emitter_id": "UUID",
    "emitter_seq": "UInt64",
}
"""The columns and their types, in the order of ``Trace``'s fields: knowing them saves asking the server each time."""

_values = attrgetter(*COLUMNS)

_TAIL = f"""
SELECT {", ".join(COLUMNS)}
FROM {{database:Identifier}}.{TABLE}
WHERE org_id = {{org_id:UUID}} AND requested_at > fromUnixTimestamp64Micro({{after_us:Int64}}, 'UTC')
ORDER BY requested_at DESC, emitter_seq DESC
LIMIT {{limit:UInt64}}
"""  # noqa: S608 - names of our own; values are bound by the server

_SUMMARY = f"""
SELECT
    model,
    provider,
    count() AS requests,
    countIf(error_code != ''),
    sum(input_tokens),
    sum(output_tokens),
    ifNotFinite(quantileIf(0.5)(provider_ttfb_ms, is_complete), 0),
    ifNotFinite(quantileIf(0.5)(total_latency_ms, is_complete), 0),
    ifNotFinite(quantileIf(0.99)(total_latency_ms, is_complete), 0),
    ifNotFinite(quantileIf(0.5)(proxy_overhead_ms, is_complete), 0),
    ifNotFinite(quantileIf(0.99)(proxy_overhead_ms, is_complete), 0)
FROM {{database:Identifier}}.{TABLE}
WHERE org_id = {{org_id:UUID}} AND requested_at >= now64(6, 'UTC') - toIntervalMicrosecond({{span_us:Int64}})
GROUP BY model, provider
ORDER BY requests DESC, model, provider
"""  # noqa: S608 - the same


class ClickHouseTraces:
    """A ``TraceSink`` and a ``TraceHistory`` over one connection, which heals itself.

    A batch is one insert under its token as ``insert_deduplication_token``; the table's deduplication window makes a
    repeated one count once. All methods raise ``SinkUnavailableError``.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Take a URL as ``connection.Address.parse`` does; raises ``ValueError`` as it does."""
        self._address = Address.parse(url)
        self._connection = Connection(partial(self._address.connect, timeout_s), timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"<ClickHouseTraces at {self._address!r}>"

    async def open(self) -> None:
        """Get ready. A server that is down is found out by the first use, and connected to once it is up."""
        self._connection.open()

    async def close(self) -> None:
        """Finish what is running and disconnect; doing it again, or without having opened, does nothing."""
        await self._connection.close()

    async def ping(self) -> None:
        """Ask the server for an answer. Raises ``SinkUnavailableError`` if none comes."""
        await self._connection.run(lambda client: client.command("SELECT 1"))

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch once, however often it comes; see ``TraceSink``."""
        if traces:
            await self._connection.run(lambda client: self._insert(client, traces, batch_token))

    async def tail(self, org_id: UUID, limit: int, after: datetime | None = None) -> Sequence[Trace]:
        """Return the latest traces, oldest of them first; with ``after``, only what was requested later."""
        parameters = {"org_id": org_id, "limit": limit, "after_us": _unix_us(after) if after else 0}
        return [Trace(*row) for row in reversed(await self._rows(_TAIL, parameters))]

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row a model and provider for the span that ends now by ClickHouse's clock, most requests first."""
        span_us = round(span.total_seconds() * 1_000_000)
        return [ModelSummary(*row) for row in await self._rows(_SUMMARY, {"org_id": org_id, "span_us": span_us})]

    def _insert(self, client: Client, traces: Sequence[Trace], batch_token: str) -> None:
        client.insert(
            TABLE,
            list(zip(*map(_values, traces), strict=True)),
            database=self._address.database,
            column_names=list(COLUMNS),
            column_type_names=list(COLUMNS.values()),
            column_oriented=True,
            # A server that gathers inserts of many clients into one would answer before the rows are stored.
            settings={"insert_deduplication_token": batch_token, "async_insert": 0},
        )

    async def _rows(self, query: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        bound = {"database": self._address.database, **parameters}
        result = await self._connection.run(lambda client: client.query(query, parameters=bound))
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows


def _unix_us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
