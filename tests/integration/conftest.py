"""Fixtures that several modules of this folder use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.dev import IbexDev, folder_of_its_own
from harness.openai import ScriptedOpenAI
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness.postgres import PostgresDatabase


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
