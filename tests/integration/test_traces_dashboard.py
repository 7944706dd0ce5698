"""The queries of the traces dashboard work on the table."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.exchanges import a_refusal, an_exchange
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "ibex-traces.json"
# The values that Grafana inserts for its macros and for empty text boxes.
MACROS = {
    "$__timeFilter(requested_at)": "requested_at >= toDateTime64('2020-01-01 00:00:00', 6, 'UTC')",
    "$__timeInterval(requested_at)": "toStartOfInterval(requested_at, INTERVAL 60 second)",
    "${org}": "",
    "${model}": "",
}


async def test_every_panel_has_a_valid_query(clickhouse: ClickHouseDatabase) -> None:
    """The migrated table has rows of successful and of refused requests."""
    migrate(clickhouse.url)
    traces = ClickHouseTraces(clickhouse.url)
    await traces.open()
    times = dict.fromkeys(("requested_at", "completed_at"), datetime.now(UTC))  # the table's TTL removes old rows
    exchanges = (an_exchange(**times), an_exchange(**times, is_complete=False), a_refusal(**times))
    rows = [trace for trace in map(trace_of, exchanges) if trace is not None]
    await traces.write(rows, "token")
    await traces.close()
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]

    client = clickhouse.client()
    assert len(panels) > 10
    for panel in panels:
        (target,) = panel["targets"]
        statement = target["rawSql"]
        for macro, meaning in MACROS.items():
            statement = statement.replace(macro, meaning)
        answer = client.query(statement.replace("ibex.", f"{clickhouse.name}."))
        assert answer.result_rows, panel["title"]
        if panel["type"] == "timeseries":
            assert answer.column_names[0] == "time", panel["title"]
    disconnect(client)
