"""The reference page of ClickHouse's schema matches a migrated database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tools.reference.clickhouse import columns

from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase

pytestmark = pytest.mark.integration


def test_the_page_has_the_columns_of_a_migrated_database(clickhouse: ClickHouseDatabase) -> None:
    """Names, types and order are those of ClickHouse."""
    client = clickhouse.client()
    of_table = "database = {name:String} AND table = 'llm_traces'"
    query = f"SELECT name, type FROM system.columns WHERE {of_table} ORDER BY position"  # noqa: S608 - no value in it
    rows = client.query(query, parameters={"name": clickhouse.name}).result_rows
    disconnect(client)

    assert rows == list(columns().items())
