"""A client of ClickHouse without a server. It records inserts."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clickhouse_connect.driver.exceptions import DatabaseError

OLD: Final = {"async_insert": "0", "wait_for_async_insert": "1", "async_insert_deduplicate": "0"}
"""The settings of a server before version 24.2, as far as inserts need them."""
NEW: Final = {
    **OLD,
    "async_insert": "1",
    "async_insert_busy_timeout_ms": "200",
    "async_insert_busy_timeout_max_ms": "200",
    "async_insert_use_adaptive_busy_timeout": "1",
    "deduplicate_insert": "enable",
}
"""The settings of a server since version 26.2."""


@dataclass(frozen=True, slots=True)
class SettingOfServer:
    """A setting as the server reports it to a client."""

    value: str
    readonly: int = 0


class RecordingClient:
    """A client of a server with this version, engine of the table, settings, and settings that a user cannot change.

    It records inserts, and raises the errors of ``refusals``, one for each insert, until there are none.
    """

    write_compression = "lz4,zstd"

    def __init__(
        self,
        *refusals: DatabaseError,
        version: str = "26.9.2.1",
        engine: str = "MergeTree",
        settings: Mapping[str, str] = NEW,
        fixed: Sequence[str] = (),
    ) -> None:
        self.inserts: list[dict[str, Any]] = []
        self.server_version = version
        self.server_settings = {
            name: SettingOfServer(value, readonly=int(name in fixed)) for name, value in settings.items()
        }
        self.engine = engine
        self._refusals = list(refusals)

    def query(self, _query: str, **_arguments: Any) -> SimpleNamespace:
        """Return the engine of the table, which is all that inserts ask for."""
        return SimpleNamespace(result_rows=[(self.engine,)] if self.engine else [])

    def raw_insert(self, table: str, **arguments: Any) -> None:
        """Record encoded rows."""
        self.inserts.append({"table": table, **arguments})
        if self._refusals:
            raise self._refusals.pop(0)

    def close(self) -> None:
        """Do nothing."""

    def close_connections(self) -> None:
        """Do nothing."""
