"""The production wiring: auth, Redis, two proxy workers; what one changes, the others know at the next request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from harness.production import BOOTSTRAP, Production

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


def _post(address: str, headers: dict[str, str], body: dict[str, object]) -> int:
    with httpx.Client(trust_env=False) as client:  # a connection of its own: any worker may take it
        return client.post(f"{address}/v1/chat/completions", json=body, headers=headers).status_code
