"""A real ClickHouse for tests: the engine's process, or the server that IBEX_TEST_CLICKHOUSE_URL names.

The first test that needs the engine starts it, and it serves the whole run. Each test has its own database.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from ibex.adapters.clickhouse.engine_statements import Engine


@dataclass(frozen=True, slots=True)
class ClickHouseDatabase:
    """One database of a server, by its URL."""

    url: str = field(repr=False)
    name: str

    def client(self) -> Client:
        """Return a client, which the caller closes with ``disconnect``."""
        return ClickHouseAddress.parse(self.url).connect()

    def dump(self) -> str:
        """Return every trace as text, to search for values that must not be stored."""
        client = self.client()
        rows = client.query("SELECT * FROM {name:Identifier}.llm_traces", parameters={"name": self.name}).result_rows
        disconnect(client)
        return "\n".join(map(str, rows))

    def empty(self) -> None:
        """Remove every trace and every record of an inserted batch."""
        client = self.client()
        client.command("TRUNCATE TABLE {name:Identifier}.llm_traces", parameters={"name": self.name})
        disconnect(client)

    def drop(self) -> None:
        """Drop the database if it exists."""
        client = self.client()
        client.command("DROP DATABASE IF EXISTS {name:Identifier}", parameters={"name": self.name})
        disconnect(client)


@pytest.fixture(scope="session")
def clickhouse_server_url() -> Iterator[str]:
    """The URL of a running server, without a database."""
    named = os.environ.get("IBEX_TEST_CLICKHOUSE_URL")
    if named:
        yield named
        return
    directory = Path(tempfile.mkdtemp(prefix="ibex-clickhouse-"))
    engine = ClickHouseEngine(directory / "clickhouse")
    try:
        engine.start()
        yield engine.url
    finally:
        engine.stop()
        shutil.rmtree(directory)


def _database_on(server_url: str) -> ClickHouseDatabase:
    name = f"test_{uuid4().hex}"
    return ClickHouseDatabase(urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")), name)


@pytest.fixture
def empty_clickhouse(clickhouse_server_url: str) -> Iterator[ClickHouseDatabase]:
    """The name of a database that does not exist yet, for one test."""
    database = _database_on(clickhouse_server_url)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def module_clickhouse(clickhouse_server_url: str) -> Iterator[ClickHouseDatabase]:
    """A database with the newest schema, shared by the tests of a module."""
    database = _database_on(clickhouse_server_url)
    migrate(database.url)
    yield database
    database.drop()


@pytest.fixture
def clickhouse(empty_clickhouse: ClickHouseDatabase) -> ClickHouseDatabase:
    """An empty database with the newest schema, for one test."""
    migrate(empty_clickhouse.url)
    return empty_clickhouse


@pytest.fixture(scope="session")
def engine_in_memory() -> Iterator[Engine]:
    """The engine in this process. It keeps its memory tables when clients of ``chdb://`` disconnect."""
    # Imported here, because the engine loads slowly and most runs do not need it.
    from ibex.adapters.clickhouse.engine_statements import Engine  # noqa: PLC0415

    engine = Engine(":memory:")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def module_chdb(engine_in_memory: Engine) -> Iterator[ClickHouseDatabase]:  # noqa: ARG001 - it has to run
    """A database with the newest schema in the engine in this process, shared by the tests of a module."""
    name = f"test_{uuid4().hex}"
    database = ClickHouseDatabase(f"chdb://?database={name}", name)
    migrate(database.url)
    yield database
    database.drop()
