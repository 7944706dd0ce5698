"""The production wiring: auth, Redis, two proxy workers; what one changes, the others know at the next request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from harness.production import BOOTSTRAP, Production
from ibex.entrypoints.auth import serve
from ibex.entrypoints.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration


@pytest.fixture
def production(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> Iterator[Production]:
    """The settings for these servers; what a test starts is stopped."""
    stack = Production.over(postgres, clickhouse, redis_url, tmp_path)
    yield stack
    stack.stop()


def test_a_revoked_token_is_refused_by_every_worker_at_the_next_request(production: Production) -> None:
    """The command announces it before it returns."""
    made = production.ibex(*BOOTSTRAP, "--json")
    production.start_auth()
    address = production.start_proxy(workers=2)
    headers = {"Authorization": f"Bearer {made['agent_token']}"}
    body: dict[str, object] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}

    def statuses() -> list[int]:
        return [_post(address, headers, body) for _ in range(20)]

    assert set(statuses()) == {200}
    token_id = made["agent_token"].removeprefix("ibex_pat_")[:36]
    production.ibex("token", "revoke", token_id)

    assert set(statuses()) == {401}


def test_what_an_operator_changes_is_in_force_for_every_worker_at_the_next_request(production: Production) -> None:
    """A directive, its rollback, an agent's state, an organization's: the command announces each before it returns."""
    made = production.ibex(*BOOTSTRAP, "--json")
    production.start_auth()
    address = production.start_proxy(workers=2)
    headers = {"Authorization": f"Bearer {made['agent_token']}"}
    body: dict[str, object] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}

    def seen() -> set[tuple[int, str]]:
        answers = [_ask(address, headers, body) for _ in range(10)]
        return {(answer.status_code, answer.headers.get("x-ibex-directive", "")[:2]) for answer in answers}

    assert seen() == {(200, "1@")}
    for command, expected in (
        (("directive", "set", "one", "Answer in rhyme."), (200, "2@")),
        (("directive", "rollback", "one", "1"), (200, "1@")),
        (("directive", "deactivate", "one"), (200, "")),
        (("agent", "pause", "one"), (403, "")),
        (("agent", "activate", "one"), (200, "")),
        (("org", "suspend", "acme"), (401, "")),
        (("org", "activate", "acme"), (200, "")),
    ):
        production.ibex(*command)
        assert seen() == {expected}, command


@pytest.mark.parametrize("missing", ["IBEX_AUTH_DATABASE_URL", "IBEX_TOKEN_PEPPERS", "IBEX_REDIS_URL"])
def test_auth_says_what_it_lacks(production: Production, missing: str) -> None:
    """Before anything is opened."""
    environ = {name: value for name, value in production.environ.items() if name != missing}

    with pytest.raises(SettingsError, match=missing):
        serve(Settings.load(environ))


def test_auth_tells_who_watches_over_it(production: Production) -> None:
    """It is ready with PostgreSQL, degraded without Redis, and its metrics count its calls."""
    auth = production.start_auth()
    address = auth.wait_for_line("health and metrics on", 1).split("metrics on ")[1].split('"')[0]

    with httpx.Client(base_url=address, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "ok", "checks": {}}
        ready = client.get("/ready").json()
        assert "ibex_auth_lease_turns_total" in client.get("/metrics").text
        assert client.get("/v1/models").status_code == 404
    assert (ready["status"], set(ready["checks"])) == ("ok", {"postgres", "redis"})


def _post(address: str, headers: dict[str, str], body: dict[str, object]) -> int:
    return _ask(address, headers, body).status_code


def _ask(address: str, headers: dict[str, str], body: dict[str, object]) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:  # a connection of its own: any worker may take it
        return client.post(f"{address}/v1/chat/completions", json=body, headers=headers)
