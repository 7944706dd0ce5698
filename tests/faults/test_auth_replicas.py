"""One of two auth replicas restarts, dies or freezes under load: no request of a known token fails (ADR 0046)."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from harness.auth_replicas import WAIT_S, AuthReplicas
from harness.production import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.load import Load
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

TOKENS: Final = 3
CLIENTS: Final = 8
A_SECOND: Final = 200.0
ASKED: Final = 200
"""How many requests are answered in each state before the next one."""


@pytest.fixture(scope="module")
def stack(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AuthReplicas]:
    """Two replicas, and two workers that ask them."""
    folder = tmp_path_factory.mktemp("replicas")
    with AuthReplicas.running(
        module_postgres, module_clickhouse, module_redis.url, folder, tokens=TOKENS, **PATIENCE
    ) as running:
        yield running


@contextmanager
def _under_load(stack: AuthReplicas) -> Iterator[Load]:
    with stack.changing(), stack.load(CLIENTS, A_SECOND).running() as load:
        _go_on(load)
        yield load
        _go_on(load)


def _go_on(load: Load) -> None:
    """Wait until more requests, sent from now on, are answered."""
    since = time.monotonic()
    while load.statuses(since).total() < ASKED:
        assert time.monotonic() < since + WAIT_S
        time.sleep(0.01)  # the other thread tells nobody


def _wait_until_asked(stack: AuthReplicas, number: int) -> None:
    """Wait until workers ask a replica again."""
    before, until = stack.validations(number), time.monotonic() + WAIT_S
    while stack.validations(number) <= before:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_replica_restarts(stack: AuthReplicas, by: signal.Signals) -> None:
    """In good order, or after it was killed; the workers ask it again once it is back."""
    with _under_load(stack) as load:
        began = time.monotonic()
        stack.restart(0, by)
        _wait_until_asked(stack, 0)

    assert set(load.statuses(began)) == {200}


def test_a_replica_freezes(stack: AuthReplicas) -> None:
    """Calls that are under way on it are made again on the other; the workers ask it again once it continues."""
    with _under_load(stack) as load:
        began, asked = time.monotonic(), stack.validations(1)
        stack.freeze(0)
        _go_on(load)
        assert stack.validations(1) > asked
        stack.thaw(0)
        _wait_until_asked(stack, 0)

    assert set(load.statuses(began)) == {200}
