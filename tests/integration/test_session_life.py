"""A session from its first turn to its end, through two workers over real servers (spec 9)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import psycopg
import pytest

from harness.production import BOOTSTRAP, Production
from harness.turns import new_turn
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.roles import APP_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.identity import AgentStatus
from ibex.domain.manage_identity import NamedAgent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

WAIT_S = 30
HANDLE = "a-session"


@pytest.fixture
def production(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> Iterator[Production]:
    """The settings for these servers; what a test starts is stopped."""
    stack = Production.over(postgres, clickhouse, redis_url, tmp_path)
    yield stack
    stack.stop()


async def test_a_session_is_abandoned_taken_up_again_and_ended(
    production: Production, postgres: PostgresDatabase
) -> None:
    """Workers abandon it by themselves; its next turn makes it active; one that ends it completes it for good."""
    made = production.ibex(*BOOTSTRAP, "--json")
    await _record_an_old_turn(postgres, made)
    production.start_auth()
    address = production.start_proxy(workers=2)
    token = made["agent_token"]

    _wait_for(postgres, "abandoned", 1)
    _ask(address, token)
    _wait_for(postgres, "active", 2)
    _ask(address, token, **{"X-IBEX-Session-End": "true"})
    _wait_for(postgres, "completed", 3)
    for _ in range(5):
        _ask(address, token)
    _wait_for(postgres, "completed", 8)

    shown = production.ibex("sessions", "show", HANDLE, "--json")
    assert [turn["turn_index"] for turn in shown["turns"]] == list(range(8))
    assert production.ibex("traces", "gaps", "--json")  # exit code 0: every number is there, once


async def _record_an_old_turn(postgres: PostgresDatabase, made: dict[str, str]) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    agent = NamedAgent(UUID(made["agent_id"]), UUID(made["org_id"]), "one", AgentStatus.ACTIVE, yesterday)
    database = Database(postgres.app_url, APP_ROLE)
    await database.open()
    await PostgresSessions(database).append([new_turn(agent, HANDLE, created_at=yesterday)])
    await database.close()


def _ask(address: str, token: str, **headers: str) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    own = {"Authorization": f"Bearer {token}", "X-IBEX-Session-ID": HANDLE, **headers}
    with httpx.Client(trust_env=False) as client:  # a connection of its own: any worker may take it
        assert client.post(f"{address}/v1/chat/completions", json=body, headers=own).status_code == 200


def _wait_for(postgres: PostgresDatabase, status: str, turns: int) -> None:
    deadline = time.monotonic() + WAIT_S
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        while (found := connection.execute("SELECT status, turn_count FROM sessions").fetchone()) != (status, turns):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)  # the other processes tell nobody
