"""The queries use existing columns. The contract suites test their results."""

from __future__ import annotations

from dataclasses import fields

from ibex.adapters.clickhouse.trace_queries import COLUMNS, EMITTERS, SLOW, SUMMARY, TAIL, TIMELINE
from ibex.domain.record.traces import Trace


def test_the_columns_are_a_traces_fields() -> None:
    """The order matters, because rows are written and read by position."""
    assert list(COLUMNS) == [field.name for field in fields(Trace)]


def test_every_query_is_limited_by_the_sorting_key() -> None:
    """Each has a time span, and the organization unless it covers all of them."""
    for query in (TAIL, SUMMARY, TIMELINE, SLOW):
        assert "org_id = {org_id:UUID} AND requested_at >=" in query
    assert EMITTERS.count("requested_at >=") == 2
