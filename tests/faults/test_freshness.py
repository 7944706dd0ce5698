"""A revoked token and an old directive stop working within the bound, whichever link or process fails (ADR 0045).

A live token never gets 401. Without a fault, a change applies to the next request, and a change by SQL, which bypasses
IBEX, applies within a second. Each case has its own stack while it runs.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Barrier, BrokenBarrierError, Lock
from typing import TYPE_CHECKING, Any

import pytest

from harness.dev import folder_of_its_own
from harness.directive_watch import DirectiveWatch, change_under
from harness.load import Load
from harness.postgres import PostgresDatabase, another_database
from harness.production import PATIENCE, PATIENCE_IN_AN_OUTAGE, START_TIMEOUT_S
from harness.redis import RedisServer
from harness.revocation import LINKS, RelayedStack
from harness.side_by_side import side_by_side
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.server import DATABASE, PostgresServer
from ibex.domain.freshness.kinds import BOUND_S

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path
    from typing import LiteralString

    from harness.clickhouse import ClickHouseDatabase
    from harness.directive_watch import Change, Seen
    from harness.revocation import Outcome, Revoker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

STACKS = 3
USES_A_SECOND = 60.0
"""How often each token is used while nothing fails: the very next request has to be right."""
USES_A_SECOND_IN_A_FAULT = 25.0
"""As often as the bound, which is seconds, needs: stacks side by side share the processors."""
PAUSE_S = 0.05
PAUSE_IN_A_FAULT_S = 0.15
HOLD_S = 6.0
BY_SQL_S = 1.0
"""How soon a change that is made by SQL is in force while nothing fails: a ping is sent every half second."""
OUTAGE_S = 10.0
REVOCATION = "a token is revoked: "
CHANGE = "a directive is changed: "
SQL = "changes are made by SQL: "
STOPPED = "PostgreSQL is stopped"
SQL_CHANGES: Mapping[str, tuple[LiteralString, LiteralString, tuple[int, bool]]] = {
    "the directive is deactivated": (
        "UPDATE directives SET is_active = false",
        "UPDATE directives SET is_active = true",
        (200, False),
    ),
    "the agent is paused": (
        "UPDATE agents SET status = 'paused'",
        "UPDATE agents SET status = 'active'",
        (403, False),
    ),
    "the organization is suspended": (
        "UPDATE organizations SET status = 'suspended'",
        "UPDATE organizations SET status = 'active'",
        (401, False),
    ),
}
"""A change, its reverse, and what requests get in between: the status, and whether they carry a directive."""


def _revoke_without_a_fault(stack: RelayedStack, by: Revoker = "auth") -> Outcome:
    stack.a_second = USES_A_SECOND
    try:
        return stack.revoke_under(by=by)
    finally:
        stack.a_second = USES_A_SECOND_IN_A_FAULT


def _link(stack: RelayedStack, link: str, how: str) -> Outcome:
    relay = stack.relays[link]
    # Auth could not revoke anything without PostgreSQL.
    return stack.revoke_under(getattr(relay, how), relay.heal, by="operator" if link == "auth-postgres" else "auth")


def _several_changes(stack: RelayedStack) -> list[Change]:
    change = partial(change_under, stack, pause_s=PAUSE_S)
    return [change(), change(), change(rollback_to=1)]


def _change_under_link(stack: RelayedStack, link: str, how: str) -> Change:
    relay = stack.relays[link]
    return change_under(stack, getattr(relay, how), relay.heal, pause_s=PAUSE_IN_A_FAULT_S, hold_s=HOLD_S)


def _change_without_redis(stack: RelayedStack, rollback_to: int | None) -> Change:
    change = partial(change_under, stack, pause_s=PAUSE_IN_A_FAULT_S)
    change()  # so that version 1 is not active
    return change(stack.redis.pause, stack.redis.resume, rollback_to=rollback_to)


def _sql_changes(stack: RelayedStack) -> Mapping[str, tuple[float, float]]:
    """For each change and its reverse, return the seconds from its commit until requests follow it."""
    took = {}
    watch = DirectiveWatch(stack.address, stack.installation.agent_token.reveal(), PAUSE_S)
    with watch.running():
        for name, (change, reverse, expected) in SQL_CHANGES.items():
            watch.wait_until_all(lambda seen: _seen(seen) == (200, True))
            took[name] = (_commit(stack, watch, change, expected), _commit(stack, watch, reverse, (200, True)))
    return took


def _commit(stack: RelayedStack, watch: DirectiveWatch, change: LiteralString, expected: tuple[int, bool]) -> float:
    stack.sql(change)
    committed = time.monotonic()
    watch.wait_until_all(lambda seen: seen.sent >= committed and _seen(seen) == expected)
    return max((seen.sent - committed for seen in watch.since(committed) if _seen(seen) != expected), default=0.0)


def _seen(seen: Seen) -> tuple[int, bool]:
    return seen.status, seen.version > 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The responses while PostgreSQL was stopped, and the outcome of a revocation afterwards.

    ``late`` was sent more than the bound after the stop, and answered before PostgreSQL started again.
    """

    seen: list[Seen]
    late: list[Seen]
    probed: Counter[int]
    outcome: Outcome


def _stop_postgres(stack: RelayedStack) -> Stopped:
    server, token = stack.database.server, stack.installation.agent_token.reveal
    watch = DirectiveWatch(stack.address, token(), PAUSE_IN_A_FAULT_S)
    load = Load(stack.address, token, stack.clients, a_second=stack.a_second)
    with watch.running(), load.running():
        watch.wait_until_all(_is_served)
        began = time.monotonic()
        server.stop()
        stopped = time.monotonic()
        time.sleep(OUTAGE_S)  # the fault: requests must be served throughout
        lasted = time.monotonic()
        server.start()
        watch.wait_until_all(_is_served_since(time.monotonic()))
        server.restart(immediate=True)
        watch.wait_until_all(_is_served_since(time.monotonic()))
        seen, probed = watch.since(began), load.statuses(began)
    late = [one for one in seen if stopped + BOUND_S < one.sent and one.answered < lasted]
    return Stopped(seen, late, probed, _revoke_without_a_fault(stack))


def _is_served(seen: Seen) -> bool:
    return seen.status == 200


def _is_served_since(moment: float) -> Callable[[Seen], bool]:
    return lambda seen: seen.status == 200 and seen.sent >= moment


# First the cases that need a fresh stack, then the longest.
CASES: Mapping[str, Callable[[RelayedStack], Any]] = {
    f"{REVOCATION}all is well": _revoke_without_a_fault,
    f"{CHANGE}all is well": _several_changes,
    f"{REVOCATION}by SQL, all is well": partial(_revoke_without_a_fault, by="sql"),
    f"{SQL}all is well": _sql_changes,
    **{
        f"{REVOCATION}{link}, {how}": partial(_link, link=link, how=how)
        for link in sorted(LINKS, key="auth-redis proxy-redis proxy-auth auth-postgres".index)
        for how in ("stall", "cut")
    },
    f"{REVOCATION}redis is frozen": lambda stack: stack.revoke_under(stack.redis.pause, stack.redis.resume),
    f"{REVOCATION}redis is emptied": lambda stack: stack.revoke_under(stack.flush_redis),
    f"{REVOCATION}redis is killed": lambda stack: stack.revoke_under(stack.redis.kill, stack.redis.start),
    f"{REVOCATION}auth is frozen": lambda stack: stack.revoke_under(stack.freeze_auth, stack.thaw_auth, by="operator"),
    f"{REVOCATION}a worker is frozen": lambda stack: stack.revoke_under(stack.freeze_worker, stack.thaw_worker),
    f"{REVOCATION}by SQL, auth is frozen": lambda stack: stack.revoke_under(
        stack.freeze_auth, stack.thaw_auth, by="sql"
    ),
    f"{REVOCATION}by SQL, redis is frozen": lambda stack: stack.revoke_under(
        stack.redis.pause, stack.redis.resume, by="sql"
    ),
    f"{CHANGE}redis is frozen, set": partial(_change_without_redis, rollback_to=None),
    f"{CHANGE}redis is frozen, rollback": partial(_change_without_redis, rollback_to=1),
    **{
        f"{CHANGE}{link}, {how}": partial(_change_under_link, link=link, how=how)
        for link in ("proxy-redis", "proxy-auth", "auth-postgres")
        for how in ("stall", "cut")
    },
}

WITH_POSTGRES: Mapping[str, Callable[[RelayedStack], Any]] = {STOPPED: _stop_postgres}
"""The cases that need a PostgreSQL to themselves."""


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    migrated_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    redis_program: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[Any]]]:
    """The futures of the selected cases."""
    migrating = Lock()

    @contextmanager
    def stack_on(
        database: PostgresDatabase, folder: Path, patience: Mapping[str, str] = PATIENCE
    ) -> Iterator[RelayedStack]:
        folder.mkdir()
        redis = RedisServer.on_free_port(redis_program)
        redis.start()
        try:
            with migrating:  # migrations cannot run in several threads at once
                migrate.upgrade(database.owner_url)
            with RelayedStack.running(database, module_clickhouse, redis, folder, **patience) as running:
                running.a_second = USES_A_SECOND_IN_A_FAULT
                with suppress(BrokenBarrierError):
                    all_started.wait(START_TIMEOUT_S)  # a starting stack takes processor time from the others
                yield running
        finally:
            redis.kill()

    @contextmanager
    def stack(number: int) -> Iterator[RelayedStack]:
        folder = tmp_path_factory.getbasetemp() / f"stack-{number}"
        with another_database(migrated_postgres.server) as database, stack_on(database, folder) as running:
            yield running

    @contextmanager
    def stack_with_postgres(_: int) -> Iterator[RelayedStack]:
        with folder_of_its_own() as folder:
            server = PostgresServer(folder / "postgres")
            try:
                server.start()
                database = PostgresDatabase(server, DATABASE)
                with stack_on(database, folder / "stack", PATIENCE_IN_AN_OUTAGE) as running:
                    yield running
            finally:
                server.stop()

    asked = [item for item in request.session.items if item.path == request.path]
    wanted = {
        item.callspec.params.get("case")
        for item in asked
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    cases = {name: case for name, case in CASES.items() if name in wanted}
    alone = {name: case for name, case in WITH_POSTGRES.items() if name in wanted}
    all_started = Barrier(min(STACKS, len(cases)) + len(alone))
    with (
        side_by_side(stack_with_postgres, 1, alone) as running_alone,
        side_by_side(stack, STACKS, cases) as running,
    ):
        yield {**running, **running_alone}


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(REVOCATION)])
def test_a_revoked_token_is_refused_within_the_bound(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """A live token may get 503 while auth is unreachable, and never gets 401.

    If Redis cannot replace or return the epoch, the watch keeps the bound. Without a fault, every request after a
    revocation through IBEX is refused.
    """
    outcome: Outcome = outcomes[case].result()

    assert outcome.served_s < BOUND_S
    assert 401 not in outcome.live
    assert outcome.live[200] > 0
    if "redis" in case or "all is well" in case or "worker" in case:
        assert set(outcome.live) == {200}
    assert outcome.refused[401] > 0
    if case == f"{REVOCATION}by SQL, all is well":
        assert outcome.served_s < BY_SQL_S
    elif "all is well" in case:
        assert outcome.served_s == 0
        assert set(outcome.refused) == {401}


@pytest.mark.parametrize("case", [f"{CHANGE}all is well"])
def test_a_changed_directive_applies_to_the_next_request(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """No request after a change or a rollback carries the old text."""
    changes: list[Change] = outcomes[case].result()

    assert [(change.old_s, change.failed, change.went_back) for change in changes] == [(0.0, {}, 0)] * 3


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(f"{CHANGE}redis")])
def test_a_changed_directive_applies_within_the_bound_without_redis(
    outcomes: Mapping[str, Future[Any]], case: str
) -> None:
    """The watch delivers the change. No request fails, and no worker returns to the old text."""
    change: Change = outcomes[case].result()

    assert change.old_s < BOUND_S
    assert (change.failed, change.went_back) == ({}, 0)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith((f"{CHANGE}proxy", f"{CHANGE}auth"))])
def test_a_changed_directive_applies_within_the_bound_while_a_link_fails(
    outcomes: Mapping[str, Future[Any]], case: str
) -> None:
    """The old text does not return afterwards. Requests may get 503 while auth is unreachable."""
    change: Change = outcomes[case].result()

    assert change.old_s < BOUND_S
    assert change.went_back == 0
    assert set(change.failed) <= (set() if "redis" in case else {503})


@pytest.mark.parametrize("case", [f"{SQL}all is well"])
def test_a_change_by_sql_applies_within_a_second(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """The watch delivers the change, because SQL replaces no epoch."""
    took: Mapping[str, tuple[float, float]] = outcomes[case].result()

    assert took.keys() == SQL_CHANGES.keys()
    assert max(max(one) for one in took.values()) < BY_SQL_S, took


@pytest.mark.parametrize("case", [STOPPED])
def test_known_tokens_are_served_while_postgres_is_stopped(outcomes: Mapping[str, Future[Any]], case: str) -> None:
    """PostgreSQL stops for ten seconds and then crashes.

    Cached entries serve all requests after the bound, and no change is missed.
    """
    stopped: Stopped = outcomes[case].result()

    assert not [one for one in stopped.seen if (one.status, one.version) != (200, 1)]
    assert set(stopped.probed) == {200}
    assert stopped.late
    assert all(one.is_cached for one in stopped.late)
    assert stopped.outcome.served_s == 0
    assert set(stopped.outcome.live) == {200}
