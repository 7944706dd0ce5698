"""The production wiring: auth, Redis and two proxy workers that share changes and counts.

All tests use one set of processes, with an open connection to each worker, so that a test can choose the worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.directive_changes import DirectiveOperator
from harness.openai import ScriptedOpenAI
from harness.production import BOOTSTRAP, PATIENCE, START_TIMEOUT_S, Production
from harness.turns import new_turn
from harness.worker_connections import connection_to_each_worker, emitters_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.roles import APP_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.freshness.kinds import BOUND_S
from ibex.domain.identity.management import NamedAgent
from ibex.domain.identity.model import AgentStatus
from ibex.entrypoints.auth import serve
from ibex.entrypoints.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer
    from harness.worker_connections import WorkerConnection

pytestmark = pytest.mark.integration

_LOG: Final = logging.getLogger(__name__)
ROUNDS = 3
LOW_RPM = 20
"""A limit that a test exceeds. The limit of refusals, beyond which workers do not ask Redis, is the same: far away."""
WAIT_S = 30
HANDLE = "a-session"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class TwoWorkers:
    """The running processes, and a connection to each worker."""

    production: Production
    provider: ScriptedOpenAI
    address: str
    workers: list[WorkerConnection]

    def seen(self, **headers: str) -> set[tuple[int, int | None]]:
        """Return the status and the directive's version in the responses of each worker."""
        answers = [worker.ask(**headers) for worker in self.workers for _ in range(2)]
        return {(answer.status, answer.version) for answer in answers}


@pytest.fixture(scope="module")
def stack(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TwoWorkers]:
    """Auth and two workers, with a database that has a session from yesterday."""
    folder = tmp_path_factory.mktemp("production")
    with ScriptedOpenAI.in_thread() as provider:
        keys = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider.base_url, **PATIENCE}
        production = Production.over(module_postgres, module_clickhouse, module_redis.url, folder, **keys)
        made = production.ibex(*BOOTSTRAP, "--json")
        asyncio.run(_record_an_old_turn(module_postgres, made))
        try:
            production.start_auth()
            address = production.start_proxy(workers=2)
            with connection_to_each_worker(address, made["agent_token"], module_clickhouse, 2) as workers:
                yield TwoWorkers(production, provider, address, workers)
        finally:
            production.stop()


async def _record_an_old_turn(postgres: PostgresDatabase, made: dict[str, str]) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    agent = NamedAgent(UUID(made["agent_id"]), UUID(made["org_id"]), "one", AgentStatus.ACTIVE, yesterday)
    database = Database(postgres.app_url, APP_ROLE)
    await database.open()
    await PostgresSessions(database).append([new_turn(agent, HANDLE, created_at=yesterday)])
    await database.close()


def test_a_changed_directive_is_in_the_next_request_of_both_workers(
    stack: TwoWorkers, module_clickhouse: ClickHouseDatabase
) -> None:
    """This holds as soon as a set or a rollback has returned. The provider gets the text that the receipt names."""
    operator = DirectiveOperator(stack.production.environ)
    for number in range(ROUNDS):
        for change in (partial(operator.set, f"Text {number}."), partial(operator.rollback, 1 + number)):
            changed = change()
            for worker in stack.workers:
                answer = worker.ask()
                assert (answer.status, answer.version) == (200, changed.version)
                first = stack.provider.requests[-1].json()["messages"][0]
                assert first == {"role": "system", "content": changed.text}

    own = [emitters_of(module_clickhouse, worker.asked) for worker in stack.workers]
    assert [len(emitters) for emitters in own] == [1, 1]
    assert own[0] != own[1]


def test_an_operators_change_takes_effect_in_every_worker_at_the_next_request(stack: TwoWorkers) -> None:
    """This covers directives, rollbacks, and the status of agents and organizations: the command replaces the epoch."""
    latest = stack.production.ibex("directive", "set", "one", "Answer in rhyme.", "--json")["number"]
    assert stack.seen() == {(200, latest)}
    for command, expected in (
        (("directive", "rollback", "one", "1"), (200, 1)),
        (("directive", "deactivate", "one"), (200, None)),
        (("agent", "pause", "one"), (403, None)),
        (("agent", "activate", "one"), (200, None)),
        (("org", "suspend", "acme"), (401, None)),
        (("org", "activate", "acme"), (200, None)),
    ):
        stack.production.ibex(*command)
        assert stack.seen() == {expected}, command


def test_a_changed_rate_limit_applies_in_every_worker_to_the_next_request(stack: TwoWorkers) -> None:
    """A refused organization is served once its limit is raised, and refused again once it is lowered."""
    with _rate_limit(stack) as set_limit:
        set_limit("--rpm", str(LOW_RPM))
        for worker in stack.workers:
            _wait_for_refusal(worker, LOW_RPM)
        set_limit("--rpm", "100000")
        assert {(answer.status, answer.limit) for answer in (w.ask() for w in stack.workers)} == {(200, 100_000)}
        set_limit("--rpm", str(LOW_RPM))
        for worker in stack.workers:
            _wait_for_refusal(worker, LOW_RPM)
    assert {(answer.status, answer.limit) for answer in (w.ask() for w in stack.workers)} == {(200, None)}


def test_a_raised_rate_limit_applies_within_the_bound_to_a_flood_of_refused_requests(stack: TwoWorkers) -> None:
    """Workers refuse such requests without asking Redis, until the watch delivers the change."""
    with _rate_limit(stack) as set_limit:
        set_limit("--rpm", "1")
        for worker in stack.workers:
            for _ in range(3):
                _wait_for_refusal(worker, 1)
        set_limit("--rpm", "100000")
        changed = time.monotonic()
        for worker in stack.workers:
            while (answer := worker.ask()).limit != 100_000:
                assert answer.status == 429
                assert time.monotonic() < changed + BOUND_S
            assert answer.status == 200
            _LOG.info("served %.3f s after the command", answer.sent - changed)


@contextmanager
def _rate_limit(stack: TwoWorkers) -> Iterator[Callable[..., None]]:
    """Yield a function that changes the organization's rate limit. Afterwards it has the default limit again."""

    def set_limit(*option: str) -> None:
        stack.production.ibex("org", "set", "acme", *option)

    try:
        yield set_limit
    finally:
        set_limit("--default-rpm")


def _wait_for_refusal(worker: WorkerConnection, limit: int) -> None:
    """Send requests, which must all have this limit, until one is refused. One minute may end in between."""
    for _ in range(2 * limit + 1):
        answer = worker.ask()
        assert answer.limit == limit
        if answer.status == 429:
            return
    pytest.fail(f"no request was refused, with a limit of {limit} requests per minute")


def test_a_revoked_token_is_refused_by_every_worker_at_the_next_request(stack: TwoWorkers) -> None:
    """The command replaces the organization's epoch before it returns."""
    token = stack.production.ibex("token", "create", "--name", "doomed", "--agent", "one", "--json")["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert {status for status, _ in stack.seen(**bearer)} == {200}

    stack.production.ibex("token", "revoke", token.removeprefix("ibex_pat_")[:36])

    assert stack.seen(**bearer) == {(401, None)}


def test_a_session_is_abandoned_resumed_and_completed(stack: TwoWorkers, module_postgres: PostgresDatabase) -> None:
    """Workers abandon an idle session. Its next turn makes it active. After an ending turn it stays completed."""
    one, other = stack.workers
    own = {"X-IBEX-Session-ID": HANDLE}

    _wait_for(module_postgres, "abandoned", 1)
    one.ask(**own)
    _wait_for(module_postgres, "active", 2)
    other.ask(**own, **{"X-IBEX-Session-End": "true"})
    _wait_for(module_postgres, "completed", 3)
    for worker in (one, other, one, other, one):
        assert worker.ask(**own).status == 200
    _wait_for(module_postgres, "completed", 8)

    shown = stack.production.ibex("sessions", "show", HANDLE, "--json")
    assert [turn["turn_index"] for turn in shown["turns"]] == list(range(8))
    assert stack.production.ibex("traces", "gaps", "--json")  # exit code 0: no sequence number is missing or repeated


def _wait_for(postgres: PostgresDatabase, status: str, turns: int) -> None:
    deadline = time.monotonic() + WAIT_S
    question = "SELECT status, turn_count FROM sessions WHERE external_id = %s"
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        while (found := connection.execute(question, [HANDLE]).fetchone()) != (status, turns):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)  # the other processes send no notification


def test_auth_reports_health_readiness_and_metrics(stack: TwoWorkers) -> None:
    """It is ready with PostgreSQL and Redis, and its metrics have the duration of calls."""
    auth = stack.production.processes[0]
    address = auth.wait_for_line("health and metrics on", 1).split("metrics on ")[1].split('"')[0]

    with httpx.Client(base_url=address, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "ok", "checks": {}}
        ready = client.get("/ready").json()
        assert "ibex_auth_call_duration_seconds_count" in client.get("/metrics").text
        assert client.get("/v1/models").status_code == 404
    assert (ready["status"], set(ready["checks"])) == ("ok", {"postgres", "redis"})


@pytest.mark.parametrize("missing", ["IBEX_AUTH_DATABASE_URL", "IBEX_TOKEN_PEPPERS", "IBEX_REDIS_URL"])
def test_auth_names_a_missing_setting(stack: TwoWorkers, missing: str) -> None:
    """The error names the setting."""
    environ = {name: value for name, value in stack.production.environ.items() if name != missing}

    with pytest.raises(SettingsError, match=missing):
        serve(Settings.load(environ))


def test_each_worker_reports_all_requests_and_a_dead_worker_is_replaced(stack: TwoWorkers) -> None:
    """Metrics are complete even if another worker is stopped. They keep the counts of a worker that was killed.

    The other worker serves in the meantime, and the supervisor logs the end.
    """
    counted = _chats(stack.address) + 4
    assert {status for status, _ in stack.seen()} == {200}
    _wait_for_chats(stack.address, counted)
    pids = stack.production.workers()
    assert len(pids) == 2
    for pid in pids:
        with _stopped(pid):
            assert _chats(stack.address) == counted
    shown = _samples(stack.address)
    assert shown["ibex_proxy_worker_up"] == {"0": 1, "1": 1}
    for name in ("process_resident_memory_bytes", "ibex_proxy_event_loop_silent_seconds"):
        assert set(shown[name]) == {"0", "1"}

    watcher = stack.production.processes[-1]
    os.kill(min(pids), signal.SIGKILL)
    watcher.wait_for_line("ended with code -9", START_TIMEOUT_S)
    assert httpx.get(f"{stack.address}/health", trust_env=False).status_code == 200
    watcher.wait_for_lines("listening on", 3, START_TIMEOUT_S)

    assert len(stack.production.workers()) == 2
    assert len(stack.production.workers() - pids) == 1
    assert _chats(stack.address) == counted
    assert _samples(stack.address)["ibex_proxy_worker_up"] == {"0": 1, "1": 1}


def _samples(address: str) -> dict[str, dict[str, float]]:
    """Return the samples of one worker's metrics by name and worker, with the sum over several series."""
    found: dict[str, dict[str, float]] = {}
    text = httpx.get(f"{address}/metrics", trust_env=False).raise_for_status().text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("route", CHAT) == CHAT:
                by_worker = found.setdefault(sample.name, {})
                worker = sample.labels.get("worker", "")
                by_worker[worker] = by_worker.get(worker, 0) + sample.value
    return found


def _wait_for_chats(address: str, counted: float) -> None:
    """Wait until this many chat requests are counted. A worker counts a request after the client has its response."""
    deadline = time.monotonic() + WAIT_S
    while _chats(address) < counted:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # nothing reports when a request is counted


def _chats(address: str) -> float:
    """Return the number of chat requests that one worker reports."""
    return _samples(address)["ibex_proxy_request_duration_seconds_count"][""]


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stop a process with SIGSTOP and continue it afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
