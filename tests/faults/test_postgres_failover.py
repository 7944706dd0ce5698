"""A fail-over of PostgreSQL under load, directly and behind PgBouncer in transaction mode (docs/faults.md)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.failover_stack import FailoverStack
from harness.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.redis import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

A_SECOND = 40.0
SECONDS = 8.0
BREAKS_AFTER_S = 2.0
BOUND_S = 5.0


@pytest.fixture(scope="module", params=["directly", "behind PgBouncer"])
def stack(
    request: pytest.FixtureRequest, module_clickhouse: ClickHouseDatabase, module_redis: RedisServer
) -> Iterator[FailoverStack]:
    """One stack for each way to PostgreSQL. Each test leaves the other server as the primary, without a standby."""
    pooler = None if request.param == "directly" else request.getfixturevalue("pgbouncer_path")
    with (
        tempfile.TemporaryDirectory(prefix="ibex-failover-") as folder,  # a short path, since it contains sockets
        FailoverStack.running(Path(folder), module_clickhouse, module_redis.url, pooler) as running,
    ):
        yield running


async def test_no_request_fails_if_the_primary_crashes(stack: FailoverStack) -> None:
    """The standby takes over. Each request has one checkpoint on the new primary."""
    outcome = await stack.under_load(stack.pair.fail_over, a_second=A_SECOND, seconds=SECONDS, after_s=BREAKS_AFTER_S)
    assert (outcome.failed, outcome.statuses) == (0, {200: outcome.requests})
    assert set(stack.wait_until_recorded(outcome).values()) == {1}
    _assert_revocation_works(stack)


async def test_no_session_stays_with_a_former_primary(stack: FailoverStack) -> None:
    """The former primary keeps its sessions and is read-only. IBEX leaves them by itself, in seconds."""
    stack.pair.rebuild()
    outcome = await stack.under_load(
        stack.pair.fail_over_beside_open_sessions, a_second=A_SECOND, seconds=SECONDS, after_s=BREAKS_AFTER_S
    )
    assert (outcome.failed, outcome.statuses) == (0, {200: outcome.requests})
    assert set(stack.wait_until_recorded(outcome).values()) == {1}
    _assert_revocation_works(stack)


def _assert_revocation_works(stack: FailoverStack) -> None:
    """Revoke a new token. It is refused within the bound, and the agent's own is served."""
    create = ("token", "create", "--agent", "one", "--name", "doomed", "--json")
    doomed = stack.production.ibex(*create)
    with (
        Load(stack.address, lambda: doomed["token"], 2, a_second=40).running() as load,
        Load(stack.address, lambda: stack.token, 2, a_second=40).running() as live,
    ):
        load.wait_for(200, 0.0, BOUND_S)
        stack.production.ibex("token", "revoke", doomed["id"])
        revoked = time.monotonic()
        load.wait_for(401, revoked, BOUND_S)
        time.sleep(1)  # nothing signals the absence of a response
    assert load.last(200) - revoked < BOUND_S
    assert set(live.statuses()) == {200}
