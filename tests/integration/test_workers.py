"""Several workers on one socket: replaced when they die, ended with who watches over them, and told when to stop."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.production import START_TIMEOUT_S, Production
from ibex.entrypoints.workers import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

END_TIMEOUT_S = 30


@pytest.fixture
def production(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> Iterator[Production]:
    """The settings for these servers, and an auth."""
    stack = Production.over(postgres, clickhouse, redis_url, tmp_path)
    stack.start_auth()
    yield stack
    stack.stop()


def test_a_worker_that_dies_is_replaced(production: Production) -> None:
    """The others serve meanwhile, and it is said."""
    address = production.start_proxy(workers=2)
    watcher = production.processes[-1]
    before = production.workers()
    os.kill(min(before), signal.SIGKILL)

    watcher.wait_for_line("ended with code -9", START_TIMEOUT_S)
    watcher.wait_for_lines("listening on", 3, START_TIMEOUT_S)

    assert len(production.workers() - before) == 1
    assert len(production.workers()) == 2
    assert httpx.get(f"{address}/health", trust_env=False).status_code == 200


def test_a_stop_while_workers_start_is_no_failure(production: Production) -> None:
    """They have nothing to finish yet, and nobody who listens for the signal."""
    watcher = production.spawn_proxy(workers=2)
    watcher.wait_for_line("2 workers on", START_TIMEOUT_S)

    assert watcher.stop(signal.SIGTERM) == 0, watcher.lines


def test_workers_end_with_who_watches_over_them(production: Production) -> None:
    """By themselves and well, when it is killed and can tell them nothing."""
    production.start_proxy(workers=2)
    handles = [os.pidfd_open(pid) for pid in production.workers()]
    watcher = production.processes.pop()

    watcher.process.kill()

    for handle in handles:  # readable once the process has ended
        assert select.select([handle], [], [], END_TIMEOUT_S)[0]
        os.close(handle)
    assert watcher.wait() == -signal.SIGKILL


def test_one_that_cannot_start_ends_them_all(production: Production) -> None:
    """With its exit code, and without trying again and again."""
    (production.folder / "journal").write_text("a file where a folder should be")

    watcher = production.spawn_proxy(workers=2)

    assert watcher.wait() == 1
    assert any("ended with code 1" in line for line in watcher.lines)


def test_several_workers_need_auth_and_redis(production: Production) -> None:
    """What they know of tokens must not be each one's own."""
    del production.environ["IBEX_AUTH_ADDRESS"], production.environ["IBEX_REDIS_URL"]

    watcher = production.spawn_proxy(workers=2)

    assert watcher.wait() == 2
    assert any("IBEX_AUTH_ADDRESS is not set" in line for line in watcher.lines)


def test_a_place_is_told_in_one_word() -> None:
    """On the worker's command line."""
    assert Place.parse(str(Place(3, 5, 1, 7))) == Place(3, 5, 1, 7)
