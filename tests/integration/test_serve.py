"""`ibex serve` as a process, over servers that it is told of by URL."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.process import IbexProcess
from ibex.adapters.clickhouse.connection import disconnect
from ibex.entrypoints.proxy import serve
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

START_TIMEOUT_S = 30


def test_it_serves_what_bootstrap_made_and_ends_on_sigterm(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """The commands of an installation: bootstrap, serve, a completion; SIGTERM flushes the record and exits 0."""
    environ = {
        "IBEX_PORT": "0",
        "IBEX_DATABASE_URL": postgres.app_url,
        "IBEX_AUTH_DATABASE_URL": postgres.auth_url,
        "IBEX_CLICKHOUSE_URL": clickhouse.url,
        "IBEX_TOKEN_PEPPERS": "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "IBEX_JOURNAL_DIR": str(tmp_path / "journal"),
    }
    names = ["--org", "acme", "--admin-email", "a@acme.example", "--agent", "one", "--directive", "Be brief."]
    bootstrap = IbexProcess.spawn(["bootstrap", *names, "--json"], environ, tmp_path)
    assert bootstrap.wait() == 0, bootstrap.lines
    token = json.loads(bootstrap.lines[0])["agent_token"]

    proxy = IbexProcess.spawn(["serve"], environ, tmp_path)
    address = json.loads(proxy.wait_for_line("listening on", START_TIMEOUT_S))["event"].removeprefix("listening on ")
    with httpx.Client(base_url=address, trust_env=False) as http:
        ready = http.get("/ready")
        answer = http.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o", "messages": [{"role": "user", "content": "canary"}]},
            headers={"Authorization": f"Bearer {token}"},
        )
    assert (ready.status_code, answer.status_code) == (200, 200)
    assert proxy.stop(signal.SIGTERM) == 0

    client = clickhouse.client()
    rows = client.query(
        "SELECT request_id, status_code FROM {database:Identifier}.llm_traces", parameters={"database": clickhouse.name}
    ).result_rows
    disconnect(client)
    assert [(str(request_id), status) for request_id, status in rows] == [(answer.headers["x-request-id"], 200)]
    assert all(json.loads(line)["event"] for line in proxy.lines[:-1])
    assert not any(token in line or "canary" in line for line in proxy.lines)


def test_what_is_not_named_is_said() -> None:
    """Before anything is opened."""
    with pytest.raises(SettingsError, match="IBEX_DATABASE_URL"):
        serve({})
