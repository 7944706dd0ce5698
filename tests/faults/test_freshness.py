"""A revoked token stops working and a changed directive is in force within the bound, whichever link or process fails.

A live token is never refused. Without any fault the very next request knows (spec 1, 5, 7, faults.md; a version that
was rolled back was served until restart elsewhere, lessons.md). Each case has a stack to itself while it lasts.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import pytest

from harness.directive_watch import change_under
from harness.postgres import another_database
from harness.redis import RedisServer
from harness.revocation import LINKS, RelayedStack
from harness.side_by_side import side_by_side
from ibex.adapters.postgres import migrate
from ibex.domain.freshness import BOUND_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.directive_watch import Change
    from harness.postgres import PostgresDatabase
    from harness.revocation import Outcome

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

STACKS = 3
USES_A_SECOND = 60.0
PAUSE_S = 0.05
REVOCATION = "a token is revoked: "
CHANGE = "a directive is changed: "


def _link(stack: RelayedStack, link: str, how: str) -> Outcome:
    relay = stack.relays[link]
    by_auth = link != "auth-postgres"  # which could not revoke anything then
    return stack.revoke_under(getattr(relay, how), relay.heal, by_auth=by_auth)


def _several_changes(stack: RelayedStack) -> list[Change]:
    change = partial(change_under, stack, pause_s=PAUSE_S)
    return [change(), change(), change(rollback_to=1)]


def _change_without_redis(stack: RelayedStack, rollback_to: int | None) -> Change:
    change_under(stack, pause_s=PAUSE_S)  # so that version 1 is not in force
    return change_under(stack, stack.redis.pause, stack.redis.resume, rollback_to=rollback_to, pause_s=PAUSE_S)


# First what needs a stack that nothing has befallen yet, then the longest.
CASES: Mapping[str, Callable[[RelayedStack], Any]] = {
    f"{REVOCATION}all is well": lambda stack: stack.revoke_under(lambda: None, lambda: None, by_auth=True),
    f"{CHANGE}all is well": _several_changes,
    **{
        f"{REVOCATION}{link}, {how}": partial(_link, link=link, how=how)
        for link in sorted(LINKS, key="auth-redis proxy-redis proxy-auth auth-postgres".index)
        for how in ("stall", "cut")
    },
    f"{REVOCATION}redis is frozen": lambda stack: stack.revoke_under(
        stack.redis.pause, stack.redis.resume, by_auth=True
    ),
    f"{REVOCATION}auth is frozen": lambda stack: stack.revoke_under(stack.freeze_auth, stack.thaw_auth, by_auth=False),
    f"{CHANGE}redis is frozen, set": partial(_change_without_redis, rollback_to=None),
    f"{CHANGE}redis is frozen, rollback": partial(_change_without_redis, rollback_to=1),
}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    migrated_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    redis_program: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[Any]]]:
    """What comes of the cases that are asked for."""
    # What a busy machine takes for an answer is not to be taken for a fault.
    patience = {"IBEX_AUTH_TIMEOUT": "0.5", "IBEX_REDIS_TIMEOUT": "0.5"}

    migrating = Lock()

    @contextmanager
    def stack(number: int) -> Iterator[RelayedStack]:
        folder = tmp_path_factory.getbasetemp() / f"stack-{number}"
        folder.mkdir()
        redis = RedisServer.on_free_port(redis_program)
        redis.start()
        try:
            with another_database(migrated_postgres.server) as database:
                with migrating:  # which is nothing for several threads
                    migrate.upgrade(database.owner_url)
                with RelayedStack.running(database, module_clickhouse, redis, folder, **patience) as running:
                    running.a_second = USES_A_SECOND
                    yield running
        finally:
            redis.kill()

    asked = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["case"] for item in asked if isinstance(item, pytest.Function)}
    cases = {name: case for name, case in CASES.items() if name in wanted}
    with side_by_side(stack, STACKS, cases) as running:
        yield running


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(REVOCATION)])
def test_a_token_is_revoked(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """It is refused within the bound; an outage may be 503 for a live one, where auth is out of reach, 401 it is never.

    What an operator revokes at the source is announced by the operator's command. What cannot be confirmed without
    Redis is fetched anew. If nothing fails, no request that is sent after the revocation has returned is served.
    """
    outcome: Outcome = outcomes[case].result()

    assert outcome.served_s < BOUND_S
    assert 401 not in outcome.live
    if "redis" in case or "all is well" in case:
        assert set(outcome.live) == {200}
    if "all is well" in case:
        assert outcome.served_s == 0
        assert set(outcome.refused) == {401}


@pytest.mark.parametrize("case", [f"{CHANGE}all is well"])
def test_a_directive_is_changed(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """No request that is sent after a change has returned carries the old text: neither a new one nor a way back."""
    changes: list[Change] = outcomes[case].result()

    assert [(change.old_s, change.failed, change.went_back) for change in changes] == [(0.0, 0, 0)] * 3


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(f"{CHANGE}redis")])
def test_a_directive_is_changed_without_redis(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """What cannot be confirmed is fetched anew, from PostgreSQL; nothing fails, and no worker goes back to the old."""
    change: Change = outcomes[case].result()

    assert change.old_s < BOUND_S
    assert (change.failed, change.went_back) == (0, 0)
