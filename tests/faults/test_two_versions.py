"""The version before this one runs beside it, on the schema of a later one (ADR 0060).

The older version is a wheel that is built from its commit. Without the history of the repository, the tests are
skipped, unless IBEX_OLDER_WHEEL names a wheel.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg
import pytest

from harness.older_version import NoOlderVersionError, older_version
from harness.postgres import another_database
from harness.production import BOOTSTRAP, PATIENCE, Production
from harness.raw_http import RawClient
from harness.servers import fast_provider
from harness.whole_load import WholeLoad, chat_request
from ibex.adapters.clickhouse.connection import disconnect
from ibex.adapters.postgres import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer
    from ibex.adapters.postgres.server import PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ASKED: Final = 30
CLIENTS: Final = 2
WAIT_S: Final = 30.0
REVOKED_S: Final = 5.0
_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Versions:
    """The environments of both versions, with the same servers, and the token of an agent."""

    older: Production
    newer: Production
    agent_id: str
    token: str

    @property
    def each(self) -> tuple[Production, Production]:
        """The older one and the newer one."""
        return self.older, self.newer

    def stop_proxies(self) -> None:
        """Stop all processes but auth."""
        for version in self.each:
            while len(version.processes) > 1:
                version.stop_latest()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older version."""
    try:
        return older_version(tmp_path_factory.mktemp("older"))
    except NoOlderVersionError as absent:
        pytest.skip(str(absent))


@pytest.fixture(scope="module")
def later_postgres(postgres_server: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database with the schema of a later version: an unknown revision, and new columns that may be NULL."""
    with another_database(postgres_server) as database:
        migrate.upgrade(database.owner_url)
        with psycopg.connect(database.owner_url) as connection:
            for table in ("tokens", "agents", "organizations", "directive_versions", "sessions", "checkpoints"):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN later text".encode())
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        yield database


@pytest.fixture(scope="module")
def shared(
    installed: Path,
    later_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Versions]:
    """An auth of each version. Proxies of the older version call the newer auth, and the other way round."""
    folder = tmp_path_factory.mktemp("versions")
    with fast_provider("--events", "10", "--events-a-second", "40", "--first-s", "0.1") as provider:
        settings = {**PATIENCE, "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": provider}
        newer = Production.over(later_postgres, module_clickhouse, module_redis.url, folder, **settings)
        older = Production({**newer.environ, "PYTHONPATH": str(installed)}, folder)
        made = newer.ibex(*BOOTSTRAP, "--json")
        try:
            for version in (older, newer):
                version.start_auth()
            addresses = [version.environ["IBEX_AUTH_ADDRESS"] for version in (newer, older)]
            older.environ["IBEX_AUTH_ADDRESS"], newer.environ["IBEX_AUTH_ADDRESS"] = addresses
            yield Versions(older, newer, made["agent_id"], made["agent_token"])
        finally:
            older.stop()
            newer.stop()


@pytest.fixture
def versions(shared: Versions) -> Iterator[Versions]:
    """No proxy at the beginning and at the end of a test."""
    yield shared
    shared.stop_proxies()


def test_the_older_version_is_another_one(installed: Path) -> None:
    """Its package comes before the one of the source tree."""
    told = subprocess.run(
        [sys.executable, "-c", "import ibex; print(ibex.__file__)"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.startswith(str(installed))


def test_both_versions_serve_and_record_every_request_once(
    versions: Versions, later_postgres: PostgresDatabase, module_clickhouse: ClickHouseDatabase
) -> None:
    """They share the databases, Redis and the folder of the journals, and each calls the auth of the other."""
    addresses = [version.start_proxy() for version in versions.each]
    with WholeLoad(addresses, versions.token, CLIENTS).running() as load:
        load.go_on(ASKED)
    versions.stop_proxies()
    _LOG.info("%s", load)
    assert load.failures == []
    with psycopg.connect(later_postgres.superuser_url) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT request_id) FROM checkpoints").fetchone()
    assert found == (load.served.total(), load.served.total())
    client = module_clickhouse.client()
    query = "SELECT count(), uniqExact(request_id) FROM {database:Identifier}.llm_traces"
    try:
        traces = client.query(query, parameters={"database": module_clickhouse.name}).result_rows
    finally:
        disconnect(client)
    assert list(traces) == [(load.served.total(), load.served.total())]


def test_a_revocation_reaches_both_versions(versions: Versions) -> None:
    """Each learns of it through the watch of the other version's auth."""
    made = versions.newer.ibex("token", "create", "--agent", versions.agent_id, "--name", "revoked", "--json")
    addresses = [version.start_proxy() for version in versions.each]
    for address in addresses:
        _wait_for(lambda at=address: _status(at, made["token"]) == 200, WAIT_S)  # type: ignore[misc]
    versions.newer.ibex("token", "revoke", made["token"].removeprefix("ibex_pat_")[:36])
    revoked = time.monotonic()
    for address in addresses:
        _wait_for(lambda at=address: _status(at, made["token"]) == 401, revoked + REVOKED_S - time.monotonic())  # type: ignore[misc]


@pytest.mark.parametrize("killed", ["older", "newer"])
def test_a_journal_is_recovered_by_the_other_version(
    versions: Versions, later_postgres: PostgresDatabase, killed: str
) -> None:
    """A stream runs in a process that is killed. The other version records it as incomplete."""
    one, other = versions.each if killed == "older" else versions.each[::-1]
    address = one.start_proxy()
    other.start_proxy()
    with RawClient.connected(address) as client:
        client.send(chat_request(versions.token, "gpt-begins", stream=True))
        _, headers = client.read_head()
        assert client.read_line()
        dead = one.processes.pop()
        dead.process.send_signal(signal.SIGKILL)
        dead.wait()
    request_id = UUID(headers["x-request-id"])

    def found() -> list[tuple[bool]]:
        with psycopg.connect(later_postgres.superuser_url) as connection:
            query = "SELECT is_complete FROM checkpoints WHERE request_id = %s"
            return connection.execute(query, [request_id]).fetchall()

    _wait_for(lambda: bool(found()), WAIT_S)
    assert found() == [(False,)]


def _status(address: str, token: str) -> int:
    with RawClient.connected(address) as client:
        client.send(chat_request(token, "gpt-instant"))
        return client.response().status


def _wait_for(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process sends no notification
