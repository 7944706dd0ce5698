"""The questions are about the columns that there are; what they answer is in the contract suites."""

from __future__ import annotations

from dataclasses import fields

from ibex.adapters.clickhouse.trace_queries import COLUMNS, EMITTERS, SLOW, SUMMARY, TAIL, TIMELINE
from ibex.domain.record.traces import Trace


def test_the_columns_are_a_traces_fields() -> None:
    """In their order: rows are made and read by position."""
    assert list(COLUMNS) == [field.name for field in fields(Trace)]


def test_every_question_is_bounded_by_what_the_key_has() -> None:
    """By time, and by the organization unless it is about all of them."""
    for query in (TAIL, SUMMARY, TIMELINE, SLOW):
        assert "org_id = {org_id:UUID} AND requested_at >=" in query
    assert EMITTERS.count("requested_at >=") == 2
