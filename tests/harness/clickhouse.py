"""A real ClickHouse for tests: the engine's process, or the server that IBEX_TEST_CLICKHOUSE_URL names.

The first test that needs the engine starts it, and it serves the whole run. Each test has its own database.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import uuid4

import pytest

from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.layout import Layout
from ibex.adapters.clickhouse.migrate import migrate, migrations

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

    def empty(self, table: str = "llm_traces") -> None:
        """Remove every trace and every record of an inserted batch."""
        client = self.client()
        bound = {"name": self.name, "table": table}
        client.command("TRUNCATE TABLE {name:Identifier}.{table:Identifier}", parameters=bound)
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


CLUSTER: Final = "alone"
"""The name of a cluster whose only server is the engine in this process."""
_CONFIGURATION: Final = f"""
<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers><{CLUSTER}><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></{CLUSTER}></remote_servers>
</clickhouse>
"""


@pytest.fixture(scope="session")
def chdb_options(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The options of the engine in this process, which make it a cluster of one server. It listens on no port."""
    configuration = tmp_path_factory.mktemp("chdb") / "configuration.xml"
    configuration.write_text(_CONFIGURATION)
    return urlencode({"config-file": configuration})


@pytest.fixture(scope="session")
def engine_in_memory(chdb_options: str) -> Iterator[Engine]:
    """The engine in this process. It keeps its memory tables when clients of ``chdb://`` disconnect."""
    # Imported here, because the engine loads slowly and most runs do not need it.
    from ibex.adapters.clickhouse.engine_statements import Engine  # noqa: PLC0415

    engine = Engine(f":memory:?{chdb_options}")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def module_chdb(engine_in_memory: Engine, chdb_options: str) -> Iterator[ClickHouseDatabase]:  # noqa: ARG001 - it has to run
    """A database with the newest schema in the engine in this process, shared by the tests of a module."""
    database = _chdb(chdb_options)
    migrate(database.url)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def module_cluster(engine_in_memory: Engine, chdb_options: str) -> Iterator[ClickHouseDatabase]:  # noqa: ARG001 - it has to run
    """A database with the tables of a cluster of one server, shared by the tests of a module.

    The table that is written to is not replicated, because the engine has no Keeper. The one in front is Distributed.
    """
    database = _chdb(chdb_options)
    migrate(database.url)
    client = database.client()
    name = {"name": database.name}
    client.command("RENAME TABLE {name:Identifier}.llm_traces TO {name:Identifier}.llm_traces_local", parameters=name)
    (_, front) = Layout(database.name, CLUSTER).render(migrations()[0].statements[0])
    client.command(front.replace(f" ON CLUSTER '{CLUSTER}'", ""))
    disconnect(client)
    yield database
    database.drop()


def _chdb(options: str) -> ClickHouseDatabase:
    name = f"test_{uuid4().hex}"
    return ClickHouseDatabase(f"chdb://?database={name}&{options}", name)
