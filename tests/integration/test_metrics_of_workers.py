"""Metrics of several workers: the same numbers from whichever is asked, and they outlive who counted."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.production import BOOTSTRAP, START_TIMEOUT_S, Production

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

CHATS = 30
CHAT = "/v1/chat/completions"


@pytest.fixture
def production(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> Iterator[Production]:
    """The settings for these servers, and an auth."""
    stack = Production.over(postgres, clickhouse, redis_url, tmp_path)
    stack.start_auth()
    yield stack
    stack.stop()


def samples(address: str) -> dict[str, dict[str, float]]:
    """Return what one worker shows, by name and worker; samples of several series are added up."""
    found: dict[str, dict[str, float]] = {}
    text = httpx.get(f"{address}/metrics", trust_env=False).raise_for_status().text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("route", CHAT) == CHAT:
                by_worker = found.setdefault(sample.name, {})
                worker = sample.labels.get("worker", "")
                by_worker[worker] = by_worker.get(worker, 0) + sample.value
    return found


def chats(address: str) -> float:
    """Return how many chat requests one worker says there were."""
    return samples(address)["ibex_proxy_request_duration_seconds_count"][""]


@contextmanager
def stopped(pid: float) -> Iterator[None]:
    """Let a process stand still."""
    os.kill(int(pid), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(pid), signal.SIGCONT)


def test_whichever_worker_is_asked_knows_all_requests(production: Production) -> None:
    """Also while another cannot answer; and of one that is killed what it counted stays."""
    made = production.ibex(*BOOTSTRAP, "--json")
    address = production.start_proxy(workers=2)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    for _ in range(CHATS):  # each by a connection of its own, so that both workers get some
        answer = httpx.post(
            f"{address}{CHAT}", json=body, headers={"Authorization": f"Bearer {made['agent_token']}"}, trust_env=False
        )
        assert answer.status_code == 200
    workers = production.workers()

    assert len(workers) == 2
    for pid in workers:
        with stopped(pid):
            assert chats(address) == CHATS
    shown = samples(address)
    assert shown["ibex_proxy_worker_up"] == {"0": 1, "1": 1}
    for name in ("process_resident_memory_bytes", "ibex_proxy_event_loop_silent_seconds"):
        assert set(shown[name]) == {"0", "1"}

    os.kill(min(workers), signal.SIGKILL)
    production.processes[-1].wait_for_lines("listening on", 3, START_TIMEOUT_S)

    assert chats(address) == CHATS
    assert samples(address)["ibex_proxy_worker_up"] == {"0": 1, "1": 1}
