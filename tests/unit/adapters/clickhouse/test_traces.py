"""Traces in ClickHouse, as far as no server is needed; the rest is the contract's."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from uuid import UUID

import pytest

from harness.exchanges import an_exchange
from ibex.adapters.clickhouse.traces import COLUMNS, ClickHouseTraces
from ibex.domain.sessions import SinkUnavailableError
from ibex.domain.traces import Trace, trace_of


def test_the_columns_are_the_fields_of_a_trace() -> None:
    """In their order, by which rows become traces again."""
    assert list(COLUMNS) == [field.name for field in fields(Trace)]


def test_no_column_is_nullable() -> None:
    """ADR 0007."""
    assert not [kind for kind in COLUMNS.values() if "Nullable" in kind]


def test_it_shows_no_password() -> None:
    """Its repr is safe to log."""
    assert "canary" not in repr(ClickHouseTraces("http://u:canary@127.0.0.1:1/ibex"))


async def test_it_is_unavailable_before_it_is_open() -> None:
    """Every operation says so, but for a batch of nothing."""
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
