"""`ibex serve` as a process, with servers that are configured by URL."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.process import IbexProcess
from harness.production import Production
from ibex.adapters.clickhouse.connection import disconnect
from ibex.entrypoints.proxy import serve
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

START_TIMEOUT_S = 30


def test_serve_uses_the_bootstrapped_installation_and_stops_on_sigterm(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """A bootstrapped token gets a completion. SIGTERM delivers the record and exits with code 0."""
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


def test_a_missing_database_url_is_named_in_the_error() -> None:
    """The command fails before it connects to any server."""
    with pytest.raises(SettingsError, match="IBEX_DATABASE_URL"):
        serve(dict)


PRODUCTION = {
    "IBEX_ENV": "production",
    "OPENAI_API_KEY": "sk-something",
    "IBEX_AUTH_ADDRESS": "127.0.0.1:1",
    "IBEX_AUTH_SERVICE_TOKEN": "Jx0pQ3m9ZrT5vB8nLw2KsYd7",
    "IBEX_AUTH_LISTEN": "127.0.0.1:0",
    "IBEX_AUTH_OPS_LISTEN": "127.0.0.1:0",
    "IBEX_PORT": "0",
    "IBEX_DATABASE_URL": "postgresql://ibex_app:8d1f77c2@127.0.0.1:1/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth:8d1f77c2@127.0.0.1:1/ibex",
    "IBEX_CLICKHOUSE_URL": "http://ibex:51c09fe2@127.0.0.1:1/ibex",
    "IBEX_REDIS_URL": "redis://:51c09fe2@127.0.0.1:1/0",
    "IBEX_TOKEN_PEPPERS": "k1:rk3lX0vWq1cO2bqVYp7s9g==",
}


@pytest.mark.parametrize(
    ("command", "wrong", "said"),
    [
        ("auth serve", {"IBEX_AUTH_SERVICE_TOKEN": ""}, "IBEX_AUTH_SERVICE_TOKEN is not set"),
        ("serve", {"IBEX_AUTH_SERVICE_TOKEN": ""}, "IBEX_AUTH_SERVICE_TOKEN is not set"),
        ("auth serve", {"IBEX_AUTH_SERVICE_TOKEN": "z" * 32}, "IBEX_AUTH_SERVICE_TOKEN is a development credential"),
        ("auth serve", {"IBEX_AUTH_CLIENT_CA_FILE": "ca.pem"}, "IBEX_AUTH_CERT_FILE is not"),
        ("serve", {"IBEX_AUTH_CLIENT_CERT_FILE": "c.pem", "IBEX_AUTH_CLIENT_KEY_FILE": "k.pem"}, "IBEX_AUTH_CA_FILE"),
        ("serve", {"IBEX_REDIS_URL": "redis://127.0.0.1:1/0"}, "IBEX_ALLOW_INSECURE=redis"),
        ("auth serve", {"IBEX_AUTH_DATABASE_URL": "postgresql://a@127.0.0.1:1/i"}, "IBEX_ALLOW_INSECURE=postgres"),
        ("serve --workers 2", {"IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1/i"}, "IBEX_ALLOW_INSECURE=clickhouse"),
    ],
)
def test_production_refuses_insecure_settings(tmp_path: Path, command: str, wrong: dict[str, str], said: str) -> None:
    """The command prints one line that names the variable, no secret, and exits with code 2 before it listens."""
    environ = {**PRODUCTION, "IBEX_AUTH_SERVICE_TOKEN": PRODUCTION["IBEX_AUTH_SERVICE_TOKEN"] + "Hq4Gt6Xe", **wrong}

    process = IbexProcess.spawn(command.split(), environ, tmp_path)

    assert process.wait() == 2
    assert said in process.lines[0]
    text = "\n".join(process.lines)
    assert not any(secret in text for secret in ("51c09fe2", "8d1f77c2", "z" * 32, "rk3lX0", "Jx0pQ3m9", "listening"))


def test_auth_starts_in_production_with_credentials(tmp_path: Path) -> None:
    """It starts even if the other servers are not available."""
    environ = {**PRODUCTION, "IBEX_AUTH_SERVICE_TOKEN": PRODUCTION["IBEX_AUTH_SERVICE_TOKEN"] + "Hq4Gt6Xe"}
    auth = IbexProcess.spawn(["auth", "serve"], environ, tmp_path)
    line = json.loads(auth.wait_for_line("serving gRPC on port", START_TIMEOUT_S))["event"]
    assert httpx.get(f"{line.rpartition(' on ')[2]}/health", timeout=START_TIMEOUT_S).status_code == 200

    assert auth.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("command", "listens", "more"),
    [
        ("serve", "listening on", {}),
        ("serve", "health and metrics on", {"IBEX_OPS_LISTEN": "127.0.0.1:0"}),
        ("serve --workers 1", "workers on", {}),
        ("serve --workers 1", "listening on", {}),
        ("auth serve", "serving gRPC on port", {}),
    ],
)
def test_a_process_that_says_that_it_listens_can_be_stopped(
    tmp_path: Path, command: str, listens: str, more: dict[str, str]
) -> None:
    """SIGTERM in that moment lets it close what it has opened, and exit with code 0."""
    environ = {**PRODUCTION, "IBEX_AUTH_SERVICE_TOKEN": PRODUCTION["IBEX_AUTH_SERVICE_TOKEN"] + "Hq4Gt6Xe", **more}
    process = IbexProcess.spawn(command.split(), {**environ, "IBEX_JOURNAL_DIR": str(tmp_path / "journal")}, tmp_path)
    process.wait_for_line(listens, START_TIMEOUT_S)

    assert process.stop(signal.SIGTERM) == 0, process.lines


def test_a_worker_that_says_that_it_listens_can_be_stopped(tmp_path: Path) -> None:
    """A service manager signals the worker too. It exits with code 0, and another one replaces it."""
    environ = {**PRODUCTION, "IBEX_AUTH_SERVICE_TOKEN": PRODUCTION["IBEX_AUTH_SERVICE_TOKEN"] + "Hq4Gt6Xe"}
    environ |= {"IBEX_JOURNAL_DIR": str(tmp_path / "journal")}
    supervisor = IbexProcess.spawn(["serve", "--workers", "1"], environ, tmp_path)
    production = Production(environ, tmp_path, [supervisor])
    supervisor.wait_for_line("listening on", START_TIMEOUT_S)

    (worker,) = production.workers()
    os.kill(worker, signal.SIGTERM)

    assert "worker 0 ended with code 0" in supervisor.wait_for_line("worker 0 ended", START_TIMEOUT_S)
    production.stop()


def test_a_dotenv_that_redirects_a_key_is_refused(tmp_path: Path) -> None:
    """The key is from the environment, but the address is from the file. The exit code is 2."""
    (tmp_path / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:1/v1\n")

    process = IbexProcess.spawn(["serve"], {"OPENAI_API_KEY": "sk-canary"}, tmp_path)

    assert process.wait() == 2
    assert "OPENAI_BASE_URL is in .env, but OPENAI_API_KEY comes from the environment" in process.lines[0]
    assert "sk-canary" not in "\n".join(process.lines)
