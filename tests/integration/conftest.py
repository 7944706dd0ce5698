"""Fixtures that several modules of this folder use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.dev import IbexDev, folder_of_its_own
from harness.openai import ScriptedOpenAI
from harness.production import Production
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedOpenAI]:
    """A scripted OpenAI server in a separate thread: the provider of ``provided_dev``."""
    with ScriptedOpenAI.in_thread() as server:
        yield server


@pytest.fixture(scope="session")
def provided_dev(upstream: ScriptedOpenAI) -> Iterator[IbexDev]:
    """One `ibex dev` with the scripted server as its provider."""
    provider = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": upstream.base_url}
    with folder_of_its_own() as folder:
        running = IbexDev.start(folder / "home", {**provider, "OPENAI_RETRY_BASE_DELAY": "0.001"})
        yield running
        assert running.stop() == 0


@pytest.fixture
async def auth(postgres: PostgresDatabase) -> AsyncIterator[Database]:
    """The database with the role of auth."""
    database = Database(postgres.auth_url, AUTH_ROLE)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def app(postgres: PostgresDatabase) -> AsyncIterator[Database]:
    """The database with the role of the application."""
    database = Database(postgres.app_url, APP_ROLE)
    await database.open()
    yield database
    await database.close()


@pytest.fixture(scope="module")
def with_auth(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Production]:
    """The settings of the servers, and one auth for all tests of this module."""
    stack = Production.over(module_postgres, module_clickhouse, module_redis.url, tmp_path_factory.mktemp("production"))
    stack.start_auth()
    yield stack
    stack.stop()


@pytest.fixture
def production(with_auth: Production, tmp_path: Path) -> Iterator[Production]:
    """The same settings in a separate folder. The processes of a test are stopped at its end."""
    stack = Production({**with_auth.environ, "IBEX_JOURNAL_DIR": str(tmp_path / "journal")}, tmp_path)
    yield stack
    stack.stop()
