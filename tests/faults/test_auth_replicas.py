"""One of two auth replicas restarts, dies or freezes under load. No request with a known token fails (ADR 0046)."""

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
DRAIN_DELAY: Final = "1"
ASKED: Final = 200
"""How many requests are answered in each state before the next one."""


@pytest.fixture(scope="module")
def stack(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AuthReplicas]:
    """Two auth replicas, and two workers that call them."""
    folder = tmp_path_factory.mktemp("replicas")
    with AuthReplicas.running(
        module_postgres,
        module_clickhouse,
        module_redis.url,
        folder,
        tokens=TOKENS,
        IBEX_DRAIN_DELAY=DRAIN_DELAY,
        **PATIENCE,
    ) as running:
        yield running


@contextmanager
def _under_load(stack: AuthReplicas) -> Iterator[Load]:
    with stack.changing(), stack.load(CLIENTS, A_SECOND).running() as load:
        _go_on(load)
        yield load
        _go_on(load)


def _go_on(load: Load) -> None:
    """Wait until more requests that are sent from now on are answered."""
    since = time.monotonic()
    while load.statuses(since).total() < ASKED:
        assert time.monotonic() < since + WAIT_S
        time.sleep(0.01)  # the other thread has no event to wait for


def _wait_until_asked(stack: AuthReplicas, number: int) -> None:
    """Wait until the workers call a replica again."""
    before, until = stack.validations(number), time.monotonic() + WAIT_S
    while stack.validations(number) <= before:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_no_request_fails_while_a_replica_restarts(stack: AuthReplicas, by: signal.Signals) -> None:
    """The replica drains and stops, or is killed. The workers call it again afterwards."""
    with _under_load(stack) as load:
        began = time.monotonic()
        stack.restart(0, by)
        _wait_until_asked(stack, 0)

    assert set(load.statuses(began)) == {200}


def test_no_request_fails_while_a_replica_is_frozen(stack: AuthReplicas) -> None:
    """Workers retry pending calls on the other replica. They call the first one again once it continues."""
    with _under_load(stack) as load:
        began, asked = time.monotonic(), stack.validations(1)
        stack.freeze(0)
        _go_on(load)
        assert stack.validations(1) > asked
        stack.thaw(0)
        _wait_until_asked(stack, 0)

    assert set(load.statuses(began)) == {200}
