"""The settings of inserts: asynchronous if the server recognizes repeated batches then too (ADR 0059).

With asynchronous inserts, the server collects the batches of all workers for a moment and stores them as one part. It
must still recognize each batch by its token. Otherwise inserts are synchronous, and each batch is a part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.clickhouse.layout import is_replicated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clickhouse_connect.driver.client import Client

    from ibex.adapters.clickhouse.layout import Layout

FLUSH_MS: Final = 100
"""The time for which the server collects batches: at most 10 parts a second on each server that accepts inserts."""

_COMMON: Final[Mapping[str, object]] = {"date_time_input_format": "best_effort", "precise_float_parsing": 1}
SYNCHRONOUS: Final[Mapping[str, object]] = {**_COMMON, "async_insert": 0}
_REQUIRED: Final[Mapping[str, str]] = {
    "async_insert": "1",
    "wait_for_async_insert": "1",  # the rows are stored when the server answers
}
_FLUSH: Final[Mapping[str, str]] = {
    "async_insert_busy_timeout_max_ms": str(FLUSH_MS),
    "async_insert_busy_timeout_ms": str(FLUSH_MS),  # its name before version 24.2
    "async_insert_use_adaptive_busy_timeout": "0",
}
# The switches of deduplication: since version 26.2 for all tables, and before that for replicated ones. Servers since
# 26.2 also accept the old one, which a request needs that reaches an older server of the same cluster.
_UNIFIED_SWITCH: Final = ("deduplicate_insert", "enable")
_OLD_SWITCH: Final = ("async_insert_deduplicate", "1")
_TOKENS_SINCE: Final = (23, 7)
_ENGINE: Final = "SELECT engine FROM system.tables WHERE database = {database:String} AND name = {table:String}"


def insert_settings(client: Client, layout: Layout) -> Mapping[str, object]:
    """Return the settings of inserts into the table of this layout, without the token."""
    return _settings(client, table_engine(client, layout.database, layout.written))


def table_engine(client: Client, database: str, table: str) -> str:
    """Return the engine of a table; empty if it does not exist."""
    rows = client.query(_ENGINE, parameters={"database": database, "table": table}).result_rows
    return str(rows[0][0]) if rows else ""


def recognizes_asynchronous(client: Client, engine: str) -> bool:
    """Return whether the server recognizes repeated batches of asynchronous inserts into a table with this engine."""
    if not engine.endswith("MergeTree") or not all(_can_be(client, *setting) for setting in _REQUIRED.items()):
        return False
    if _UNIFIED_SWITCH[0] in client.server_settings:
        return _can_be(client, *_UNIFIED_SWITCH)
    return is_replicated(engine) and _version(client) >= _TOKENS_SINCE and _can_be(client, *_OLD_SWITCH)


def _settings(client: Client, engine: str) -> Mapping[str, object]:
    if not recognizes_asynchronous(client, engine):
        return SYNCHRONOUS
    wanted = {**_REQUIRED, **_FLUSH, **dict((_UNIFIED_SWITCH, _OLD_SWITCH))}
    changed = {name: value for name, value in wanted.items() if _has_other(client, name, value)}
    return {**_COMMON, **{name: value for name, value in changed.items() if _can_be(client, name, value)}}


def _can_be(client: Client, name: str, value: str) -> bool:
    """Return whether a statement can run with this value of a setting."""
    found = client.server_settings.get(name)
    return found is not None and (not found.readonly or not _has_other(client, name, value))


def _has_other(client: Client, name: str, value: str) -> bool:
    """Return whether the server has the setting, with another value for this user."""
    found = client.server_settings.get(name)
    return found is not None and str(found.value) != value


def _version(client: Client) -> tuple[int, ...]:
    numbers = (client.server_version or "0").split(".")[:2]
    return tuple(int(number) if number.isdecimal() else 0 for number in numbers)
