"""The indexes that ClickHouse uses for a query, from the output of EXPLAIN."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clickhouse_connect.driver.client import Client


@dataclass(frozen=True, slots=True)
class UsedIndex:
    """One index of one read: the columns that the query bounds, the granules that remain, and all granules.

    A skip index has no columns.
    """

    kind: str
    keys: tuple[str, ...]
    selected: int
    of: int

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(self.keys)}): {self.selected:,} of {self.of:,} granules"


def explained(client: Client, query: str, values: Mapping[str, object]) -> list[list[UsedIndex]]:
    """Return the indexes that are used, for each read of a table.

    Statistics of columns are left out: ClickHouse makes them in the background, and uses them once they exist.
    """
    result = client.query(f"EXPLAIN json = 1, indexes = 1 {query}", parameters=dict(values)).result_rows
    return [
        [_used(index) for index in step.get("Indexes", []) if index["Type"] != "Statistics"]
        for step in _steps(json.loads("\n".join(str(row[0]) for row in result)))
        if step.get("Node Type") == "ReadFromMergeTree"
    ]


def _used(index: Mapping[str, Any]) -> UsedIndex:
    kind = index["Type"].replace("-", "")  # engine and server write MinMax differently
    return UsedIndex(kind, tuple(index.get("Keys", ())), index["Selected Granules"], index["Initial Granules"])


def _steps(plan: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(plan, list):
        for part in plan:
            yield from _steps(part)
    elif isinstance(plan, dict):
        yield plan
        for part in plan.values():
            yield from _steps(part)
