"""The queries about traces. Each has a time span or an organization, so that the primary key limits the rows read.

The server binds all values. Only names from this module are put into the text.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from ibex.domain.record.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE: Final = "llm_traces"

_TYPES: Final[Mapping[str, str]] = {
    "UUID": "UUID",
    "str": "LowCardinality(String)",
    "bool": "Bool",
    "int": "UInt32",
    "float": "Float64",
    "datetime": "DateTime64(6, 'UTC')",
}
_TYPE_EXCEPTIONS: Final[Mapping[str, str]] = {"status_code": "UInt16", "emitter_seq": "UInt64"}
COLUMNS: Final[Mapping[str, str]] = {
    field.name: _TYPE_EXCEPTIONS.get(field.name) or _TYPES[str(field.type)] for field in fields(Trace)
}
"""The columns and their types: the fields of ``Trace``, in order."""

_ALL: Final = ", ".join(COLUMNS)
_FROM: Final = f"{{database:Identifier}}.{TABLE}"
_IN_SPAN: Final = "org_id = {org_id:UUID} AND requested_at >= now64(6, 'UTC') - toIntervalMicrosecond({span_us:Int64})"

TAIL: Final = f"""
SELECT {_ALL}
FROM {_FROM}
WHERE {_IN_SPAN}
ORDER BY requested_at DESC, emitter_seq DESC
LIMIT {{limit:UInt64}}
"""  # noqa: S608 - only names from this module
"""The latest traces of a span that ends now."""

NOW: Final = "SELECT now64(6, 'UTC')"

INSERTED: Final = f"""
SELECT inserted_at, {_ALL}
FROM {_FROM}
WHERE org_id = {{org_id:UUID}} AND inserted_at >= fromUnixTimestamp64Micro({{since_us:Int64}}, 'UTC')
ORDER BY inserted_at, requested_at, emitter_id, emitter_seq
"""  # noqa: S608 - only names from this module
"""The traces inserted since a moment. The skip index on ``inserted_at`` limits the scan."""

FIND: Final = f"""
SELECT {_ALL}
FROM {_FROM}
WHERE org_id = {{org_id:UUID}}
    AND requested_at >= fromUnixTimestamp64Micro({{from_us:Int64}}, 'UTC')
    AND requested_at < fromUnixTimestamp64Micro({{until_us:Int64}}, 'UTC')
    AND (request_id = {{request_id:UUID}} OR checkpoint_id = {{request_id:UUID}})
ORDER BY requested_at DESC, emitter_seq DESC
LIMIT {{limit:UInt64}}
"""  # noqa: S608 - only names from this module
"""The traces of a request id in a time window. The id is not in the sorting key, so the window limits the scan."""

SUMMARY: Final = f"""
SELECT
    model,
    provider,
    sum(repeated) AS requests,
    sumIf(repeated, error_code != ''),
    sum(input_tokens),
    sum(output_tokens),
    arrayMap(x -> ifNotFinite(x, 0), quantilesIf(0.5, 0.9, 0.99)(provider_ttfb_ms, is_complete)) AS ttfb,
    arrayMap(x -> ifNotFinite(x, 0), quantilesIf(0.5, 0.9, 0.99)(total_latency_ms, is_complete)) AS total,
    arrayMap(x -> ifNotFinite(x, 0), quantilesIf(0.5, 0.9, 0.99)(proxy_overhead_ms, is_complete)) AS overhead
FROM {_FROM}
WHERE {_IN_SPAN}
GROUP BY model, provider
ORDER BY requests DESC, model, provider
"""  # noqa: S608 - only names from this module
"""One row for each model and provider, over a span that ends now."""

TIMELINE: Final = f"""
SELECT
    intDiv(age('microsecond', requested_at, now64(6, 'UTC') AS ends), {{slice_us:Int64}}) AS slices_ago,
    sum(repeated),
    sumIf(repeated, error_code != ''),
    sum(input_tokens),
    sum(output_tokens)
FROM {_FROM}
WHERE {_IN_SPAN}
GROUP BY slices_ago
"""  # noqa: S608 - only names from this module
"""Requests in slices of a span that ends now. A slice without requests has no row."""

SLOW: Final = f"""
SELECT {_ALL}
FROM {_FROM}
WHERE {_IN_SPAN}
ORDER BY total_latency_ms DESC, requested_at DESC, emitter_seq DESC
LIMIT {{limit:UInt64}}
"""  # noqa: S608 - only names from this module
"""The slowest requests of a span that ends now, slowest first."""

# A process numbers its exchanges when they end, so its numbers follow ``completed_at``, except for exchanges that end
# at the same moment. Therefore the lowest number in the span is the start, and all rows with a higher number count. A
# process that started within the span (its id contains the time) starts at 1. The condition on ``requested_at`` uses
# the sorting key; it allows a day for the longest response and for exchanges that recovery recorded. With GLOBAL, the
# spans are computed once for all shards of a cluster; on a single server it has no effect.
_SINCE: Final = "now64(6, 'UTC') - toIntervalMicrosecond({span_us:Int64})"
_REQUESTED: Final = f"requested_at >= {_SINCE} - toIntervalDay(1)"
EMITTERS: Final = f"""
WITH spans AS (
    SELECT emitter_id, if(UUIDv7ToDateTime(emitter_id, 'UTC') >= {_SINCE}, 1, min(emitter_seq)) AS begins
    FROM {_FROM}
    WHERE {_REQUESTED} AND completed_at >= {_SINCE}
    GROUP BY emitter_id
)
SELECT
    emitter_id,
    any(begins) AS first,
    max(emitter_seq) AS last,
    count() AS rows,
    toUInt64(last - first + 1 - uniqExact(emitter_seq)),
    rows - uniqExact(emitter_seq),
    max(completed_at) AS last_completed_at,
    sum(repeated)
FROM {_FROM}
GLOBAL INNER JOIN spans USING (emitter_id)
WHERE {_REQUESTED} AND emitter_seq >= begins
GROUP BY emitter_id
ORDER BY last_completed_at DESC, emitter_id
"""  # noqa: S608 - only names from this module
"""For each process, over a span that ends now: its range of numbers, and how many are missing or duplicated."""
