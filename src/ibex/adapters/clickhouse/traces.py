"""Traces in ClickHouse (ADR 0007): written in batches, read for one organization at a time."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from clickhouse_connect.driver.binding import quote_identifier
from clickhouse_connect.driver.exceptions import DatabaseError

from ibex.adapters.clickhouse import content_coding
from ibex.adapters.clickhouse.connection import TIMEOUT_S, ClickHouseAddress, ClickHouseConnection, reason_of
from ibex.adapters.clickhouse.inserts import SYNCHRONOUS, insert_settings
from ibex.adapters.clickhouse.inspection import TableState, inspect_cluster, inspect_table
from ibex.adapters.clickhouse.layout import Layout
from ibex.adapters.clickhouse.trace_queries import (
    COLUMNS,
    EMITTERS,
    FIND,
    INSERTED,
    NOW,
    SLOW,
    SUMMARY,
    TAIL,
    TIMELINE,
)
from ibex.domain.record.history import MAX_TRACES_PER_REQUEST_ID, EmitterRecord, InsertedTrace, ModelSummary, TimeSlice
from ibex.domain.record.sessions import SinkRefusedError
from ibex.domain.record.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from clickhouse_connect.driver.client import Client

# Rows are encoded in chunks of this size. Encoding holds the GIL, and only a sleep in between is certain to release it.
_ROWS_PER_CHUNK: Final = 100
_PAUSE_S: Final = 0.000_05
_encoder: Final = msgspec.json.Encoder()

# Error codes for a value that a column or a constraint rejects: it would be rejected again. Every other code may be an
# outage, or a table that is being altered.
_REFUSALS: Final = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        131,  # TOO_LARGE_STRING_SIZE
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        376,  # CANNOT_PARSE_UUID
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        407,  # DECIMAL_OVERFLOW
        469,  # VIOLATED_CONSTRAINT
        691,  # UNKNOWN_ELEMENT_OF_ENUM
    }
)

# The spans in which the latest traces are searched, until there are enough. The sorting key makes a short span cheap.
_TAIL_SPANS: Final = (timedelta(hours=1), timedelta(days=1))
_EVER: Final = timedelta(days=36_500)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime(2200, 1, 1, tzinfo=UTC)
# IBEX creates a request id when the request arrives. A client that sends a UUIDv7 has usually just created it.
_UUID7: Final = 7
_AROUND_ID: Final = timedelta(hours=1)
_US: Final = timedelta(microseconds=1)


class ClickHouseTraces:
    """A ``TraceSink`` and a ``TraceHistory`` over one connection, which reconnects by itself.

    A batch is one insert, with its token as ``insert_deduplication_token``: the table's deduplication window stores a
    repeated batch once. All methods raise ``SinkUnavailableError``, and ``write`` also ``SinkRefusedError``. Rows are
    sent as compressed JSON: the client library's own encoding takes ten times as long, and holds the GIL. On a cluster,
    rows are written to the table of the server that the URL leads to, and read from all servers (see ``Layout``).
    """

    def __init__(self, url: str, *, cluster: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """Set the URL (see ``ClickHouseAddress.parse``), the name of the cluster, and the timeout of a call in seconds.

        Raises ``ValueError``.
        """
        self._address = ClickHouseAddress.parse(url)
        self._layout = Layout(self._address.database, cluster)
        self._insert_settings: Mapping[str, object] | None = None
        self._timeout_s = timeout_s
        self._connection = ClickHouseConnection(partial(self._address.connect, timeout_s), timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"<ClickHouseTraces at {self._address!r}>"

    def change_url(self, url: str) -> None:
        """Use another URL, such as one with a new password, from the next call on. Raises ``ValueError``.

        The certificates that the URL names are read again. An engine inside the process is not replaced.
        """
        address = ClickHouseAddress.parse(url)
        if "chdb" in (address.interface, self._address.interface):
            raise ValueError("an engine inside the process (chdb://) cannot change without a restart")
        self._address = address
        self._connection.reconnect_with(partial(address.connect, self._timeout_s))

    async def open(self) -> None:
        """Start the thread of the connection. It connects on first use, and again after an outage."""
        self._connection.open()

    async def close(self) -> None:
        """Wait for running work and disconnect. Idempotent; does nothing if it is not open."""
        await self._connection.close()

    async def ping(self) -> None:
        """Run a trivial statement. Raises ``SinkUnavailableError`` if the server does not answer."""
        await self._connection.run(lambda client: client.command("SELECT 1"))

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch. Idempotent by ``batch_token``; see ``TraceSink``."""
        if traces:
            await self._connection.run(lambda client: self._insert(client, traces, batch_token))

    async def tail(self, org_id: UUID, limit: int) -> Sequence[Trace]:
        """Return the ``limit`` latest traces, oldest first."""
        rows: Sequence[Sequence[Any]] = ()
        for span in (*_TAIL_SPANS, _EVER):
            rows = await self._rows(TAIL, {"org_id": org_id, "limit": limit, "span_us": span // _US})
            if len(rows) == limit:
                break
        return [Trace(*row) for row in reversed(rows)]

    async def now(self) -> datetime:
        """Return the current time of ClickHouse's clock."""
        ((now,),) = await self._rows(NOW, {})
        return now if isinstance(now, datetime) else datetime.now(UTC)

    async def inserted(self, org_id: UUID, since: datetime) -> Sequence[InsertedTrace]:
        """Return all traces that were inserted at ``since`` or later; see ``TraceHistory``."""
        rows = await self._rows(INSERTED, {"org_id": org_id, "since_us": _unix_us(since)})
        return [InsertedTrace(inserted_at, Trace(*row)) for inserted_at, *row in rows]

    async def find(self, org_id: UUID, request_id: UUID) -> Sequence[Trace]:
        """Return the traces with this request id, latest first, or an empty list; see ``TraceHistory``.

        A UUIDv7 contains its creation time. If traces are found near that time, the rest of the table is not searched.
        """
        found: dict[tuple[UUID, int], Trace] = {}
        for begins, ends in _windows(request_id, datetime.now(UTC)):
            if found and request_id.version == _UUID7 and begins == _EPOCH:
                break
            bound = {"from_us": _unix_us(begins), "until_us": _unix_us(ends), "limit": MAX_TRACES_PER_REQUEST_ID}
            rows = await self._rows(FIND, {"org_id": org_id, "request_id": request_id, **bound})
            found |= {(trace.emitter_id, trace.emitter_seq): trace for trace in (Trace(*row) for row in rows)}
        latest_first = sorted(found.values(), key=lambda trace: (trace.requested_at, trace.emitter_seq), reverse=True)
        return latest_first[:MAX_TRACES_PER_REQUEST_ID]

    async def summary(self, org_id: UUID, span: timedelta) -> Sequence[ModelSummary]:
        """Return one row for each model and provider in a span that ends now, most requests first.

        All spans end at the current time of ClickHouse's clock.
        """
        rows = await self._rows(SUMMARY, {"org_id": org_id, "span_us": span // _US})
        return [
            ModelSummary(*(*counts, ttfb[0], ttfb[2], *total, overhead[0], overhead[2]))
            for *counts, ttfb, total, overhead in rows
        ]

    async def timeline(self, org_id: UUID, span: timedelta, slices: int) -> Sequence[TimeSlice]:
        """Return a span that ends now in equal slices, oldest first; see ``TraceHistory``."""
        slice_us = -(span // -_US // slices)
        rows = await self._rows(TIMELINE, {"org_id": org_id, "span_us": span // _US, "slice_us": slice_us})
        by_age = {ago: TimeSlice(*counts) for ago, *counts in rows}
        return [by_age.get(ago, TimeSlice(0, 0, 0, 0)) for ago in reversed(range(slices))]

    async def slow(self, org_id: UUID, span: timedelta, limit: int) -> Sequence[Trace]:
        """Return the slowest requests of a span that ends now, slowest first."""
        rows = await self._rows(SLOW, {"org_id": org_id, "span_us": span // _US, "limit": limit})
        return [Trace(*row) for row in rows]

    async def emitters(self, span: timedelta) -> Sequence[EmitterRecord]:
        """Return, for each process, its traces and missing numbers in a span that ends now; see ``TraceHistory``."""
        return [EmitterRecord(*row) for row in await self._rows(EMITTERS, {"span_us": span // _US})]

    async def inspect(self) -> TableState:
        """Return the state of the server, the table and the cluster, for `ibex doctor`."""

        def inspected(client: Client) -> TableState:
            state = inspect_table(client, self._layout)
            return replace(state, cluster=inspect_cluster(client, self._layout, self._address))

        return await self._connection.run(inspected)

    def _insert(self, client: Client, traces: Sequence[Trace], batch_token: str) -> None:
        coding = content_coding.choose(client.write_compression or "")
        block = content_coding.encode(_encode(traces), coding)
        settings = self._insert_settings = self._insert_settings or insert_settings(client, self._layout)
        try:
            try:
                self._send(client, block, coding, {**settings, "insert_deduplication_token": batch_token})
            except DatabaseError as error:
                # A part that the server rejects fails all batches in it, so this batch is tried by itself.
                if error.code not in _REFUSALS or settings is SYNCHRONOUS:
                    raise
                self._send(client, block, coding, {**SYNCHRONOUS, "insert_deduplication_token": batch_token})
        except DatabaseError as error:
            self._insert_settings = None  # the table or the server may be another one now
            if error.code in _REFUSALS:
                raise SinkRefusedError(f"ClickHouse rejected a value ({reason_of(error)})") from None
            raise

    def _send(self, client: Client, block: bytes, coding: str, settings: dict[str, Any]) -> None:
        client.raw_insert(
            f"{quote_identifier(self._layout.database)}.{self._layout.written}",
            column_names=list(COLUMNS),
            insert_block=block,
            fmt="JSONEachRow",
            compression=coding or None,
            settings=settings,
        )

    async def _rows(self, query: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        bound = {"database": self._layout.database, **parameters}
        result = await self._connection.run(lambda client: client.query(query, parameters=bound))
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows


def _encode(traces: Sequence[Trace]) -> bytes:
    """Return the rows as JSON lines. Raises ``SinkRefusedError`` for a string that cannot be encoded as UTF-8."""
    chunks = []
    try:
        for start in range(0, len(traces), _ROWS_PER_CHUNK):
            chunks.append(_encoder.encode_lines(traces[start : start + _ROWS_PER_CHUNK]))
            time.sleep(_PAUSE_S)
    except UnicodeEncodeError:
        raise SinkRefusedError("a string of a trace cannot be encoded as UTF-8") from None
    return b"".join(chunks)


def _windows(request_id: UUID, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the time windows to search for a request, cheapest first: around the time in its id, recent, all."""
    if request_id.version == _UUID7 and (made_ms := request_id.int >> 80) < _NEVER.timestamp() * 1_000:
        made = datetime.fromtimestamp(made_ms / 1_000, UTC)
        yield made - _AROUND_ID, made + _AROUND_ID
    yield now - _TAIL_SPANS[-1], _NEVER
    yield _EPOCH, _NEVER


def _unix_us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
