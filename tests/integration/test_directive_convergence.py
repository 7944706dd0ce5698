"""What an operator does to a directive, as each of two workers sees it, and as the provider receives it (spec 7)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness.directive_changes import DirectiveOperator
from harness.openai import ScriptedOpenAI
from harness.production import BOOTSTRAP, Production
from harness.worker_connections import WAIT_S, connection_to_each_worker, emitters_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.directive_changes import Changed
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer
    from harness.worker_connections import WorkerConnection

pytestmark = pytest.mark.integration

ROUNDS = 5


@pytest.fixture
def provider() -> Iterator[ScriptedOpenAI]:
    """Whom the proxy asks."""
    with ScriptedOpenAI.in_thread() as server:
        yield server


@pytest.fixture
def production(
    provider: ScriptedOpenAI,
    postgres: PostgresDatabase,
    clickhouse: ClickHouseDatabase,
    redis_server: RedisServer,
    tmp_path: Path,
) -> Iterator[Production]:
    """The settings for these servers; what a test starts is stopped."""
    keys = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider.base_url}
    # What a busy machine takes for an answer is not to be taken for a fault.
    stack = Production.over(postgres, clickhouse, redis_server.url, tmp_path, IBEX_REDIS_TIMEOUT="0.5", **keys)
    yield stack
    stack.stop()


@pytest.fixture
def workers(production: Production, clickhouse: ClickHouseDatabase) -> Iterator[list[WorkerConnection]]:
    """A connection to each of two workers, both of which know the first version by now."""
    made = production.ibex(*BOOTSTRAP, "--json")
    production.start_auth()
    address = production.start_proxy(workers=2)
    with connection_to_each_worker(address, made["agent_token"], clickhouse, 2) as connections:
        yield connections


@pytest.fixture
def operator(production: Production) -> DirectiveOperator:
    """Who changes the directive."""
    return DirectiveOperator(production.environ)


def _received(provider: ScriptedOpenAI) -> str:
    """Return what the provider was told first in the latest request."""
    first = provider.requests[-1].json()["messages"][0]
    assert first["role"] == "system"
    return str(first["content"])


def test_the_very_next_request_carries_it_on_both_workers(
    workers: list[WorkerConnection],
    operator: DirectiveOperator,
    provider: ScriptedOpenAI,
    clickhouse: ClickHouseDatabase,
) -> None:
    """Once a set or a rollback has returned; the text that the provider gets is the one that the receipt names."""
    for number in range(ROUNDS):
        for change in (partial(operator.set, f"Text {number}."), partial(operator.rollback, 1 + number)):
            changed = change()
            for worker in workers:
                answer = worker.ask()
                assert (answer.status, answer.version) == (200, changed.version)
                assert _received(provider) == changed.text

    own = [emitters_of(clickhouse, worker.asked) for worker in workers]
    assert [len(emitters) for emitters in own] == [1, 1]
    assert own[0] != own[1]


def test_without_redis_it_comes_to_both_workers_and_nothing_is_skipped(
    workers: list[WorkerConnection],
    operator: DirectiveOperator,
    provider: ScriptedOpenAI,
    redis_server: RedisServer,
) -> None:
    """Frozen, it answers nobody: each worker goes from the old text to the new one, never back, and always serves."""
    redis_server.pause()
    try:
        old = "Be brief."
        for change in (partial(operator.set, "Rhyme."), partial(operator.rollback, 1)):
            changed = change()
            for worker in workers:
                _turns_to(changed, old, worker, provider)
            old = changed.text
    finally:
        redis_server.resume()


def _turns_to(changed: Changed, old: str, worker: WorkerConnection, provider: ScriptedOpenAI) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        answer = worker.ask()
        assert answer.status == 200
        text = _received(provider)
        assert (answer.version == changed.version) == (text == changed.text)
        if text == changed.text:
            break
        assert text == old
        assert time.monotonic() < deadline, "the old text is served for ever"
    for _ in range(3):
        assert worker.ask().version == changed.version
