"""Tests that the queries use existing columns. The contract suites test their results."""

from __future__ import annotations

from dataclasses import fields

from ibex.adapters.clickhouse.trace_queries import COLUMNS, EMITTERS, SLOW, SUMMARY, TAIL, TIMELINE
from ibex.domain.record.traces import Trace


def test_the_columns_are_the_fields_of_a_trace() -> None:
    """The order matters, because rows are written and read by position."""
    assert list(COLUMNS) == [field.name for field in fields(Trace)]


def test_every_query_is_limited_by_the_sorting_key() -> None:
    """Each query has a time span. It also has an organization, unless it covers all organizations."""
    for query in (TAIL, SUMMARY, TIMELINE, SLOW):
        assert "org_id = {org_id:UUID} AND requested_at >=" in query
    assert EMITTERS.count("requested_at >=") == 2
