"""PostgreSQL, ClickHouse or the journal's disk fails (docs/faults.md). Completions continue.

The journal keeps exchanges until they are stored once, or counts their loss. Afterwards the next request is recorded
without a restart.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.record_stack import POLL_S, WAIT_S, Answer, RecordStack
from harness.request_load import as_fast_as_answered, chat_request
from harness.small_disk import SmallDisk, small_disk
from ibex.domain.identity.guessed_secrets import FREE_GUESSES, LANE_BURST, LANE_CALLS_PER_SECOND
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FAILURES = "ibex_proxy_sink_failures_total"
BURIED = "ibex_proxy_sink_dead_letters_total"
LOSSES = "ibex_proxy_journal_losses_total"
FLOOD = 1_000
FRESH = 6
DISK_BYTES = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def shared_stack(
    module_postgres: PostgresDatabase, module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RecordStack]:
    """One stack for all tests of the module. Each test repairs what it broke."""
    with RecordStack.running(module_postgres, module_redis.url, tmp_path_factory.mktemp("record")) as running:
        running.start_proxy()
        yield running


@pytest.fixture
def stack(shared_stack: RecordStack) -> Iterator[RecordStack]:
    """The warmed-up stack. Afterwards it must be ready and record its next request without a restart."""
    before = shared_stack.ask(2)
    assert {answer.status for answer in before} == {200}
    yield shared_stack
    shared_stack.wait_until_ready()
    after = shared_stack.ask(2)
    assert {answer.status for answer in after} == {200}
    shared_stack.assert_recorded([*before, *after])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk for a journal."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


def test_requests_are_served_while_postgres_is_down(stack: RecordStack) -> None:
    """Known tokens and directives are cached. A command that changes something fails with a one-line error."""
    failures = stack.counter(FAILURES, "checkpoints")
    stack.postgres.server.stop(immediate=True)
    answers = stack.ask(20)
    failures.wait()
    stack.assert_degraded("postgres")
    code, said = stack.change()
    stack.postgres.server.start()

    assert not [answer for answer in answers if not answer.complete]
    assert (code, "Traceback" in said, "not available" in said) == (1, False, True), said
    stack.assert_recorded(answers)


def test_no_checkpoint_is_lost_if_postgres_crashes_under_load(stack: RecordStack) -> None:
    """A crash within a batch stores all of it or nothing, and IBEX retries the batch."""
    answers = []
    for _ in range(2):
        answers += stack.ask(20)
        stack.postgres.server.restart(immediate=True)
        answers += stack.ask(20)

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers)


def test_checkpoints_wait_while_postgres_is_read_only(stack: RecordStack) -> None:
    """A standby is read-only too. A command that changes something reports the reason."""
    failures = stack.counter(FAILURES, "checkpoints")
    stack.alter("ALTER SYSTEM SET default_transaction_read_only = on")
    answers = stack.ask(20)
    failures.wait()
    code, said = stack.change()
    stack.alter("ALTER SYSTEM RESET default_transaction_read_only")

    assert not [answer for answer in answers if not answer.complete]
    assert (code, "Traceback" in said, "ReadOnlySqlTransaction" in said) == (1, False, True), said
    stack.assert_recorded(answers)


def test_no_checkpoint_is_lost_if_the_link_to_postgres_is_cut(stack: RecordStack) -> None:
    """Completions do not wait for a slow PostgreSQL. IBEX retries an interrupted batch, and it counts once."""
    stack.to_postgres.delay_s = 0.1
    answers = stack.ask(10)
    stack.to_postgres.cut()
    answers += stack.ask(10)
    stack.to_postgres.heal()
    stack.to_postgres.delay_s = 0.0

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers)


def test_checkpoints_wait_while_postgres_refuses_connections(stack: RecordStack) -> None:
    """PostgreSQL closes the proxy's connections and accepts no new one."""
    failures = stack.counter(FAILURES, "checkpoints")
    stack.alter("ALTER ROLE ibex_app CONNECTION LIMIT 0")
    stack.alter("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ibex_app'")
    answers = stack.ask(20)
    failures.wait()
    stack.alter("ALTER ROLE ibex_app CONNECTION LIMIT -1")

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers)


def test_a_row_that_postgres_refuses_becomes_a_dead_letter(stack: RecordStack) -> None:
    """The other rows of its batch are stored, and so is its own trace."""
    dead_lettered = stack.counter(BURIED, "checkpoints")
    stack.alter("ALTER TABLE checkpoints ADD CONSTRAINT no_poison CHECK (model <> 'gpt-poison') NOT VALID")
    answers = stack.ask(5) + (poisoned := stack.ask(1, model="gpt-poison")) + stack.ask(5)
    dead_lettered.wait()
    stack.alter("ALTER TABLE checkpoints DROP CONSTRAINT no_poison")

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers, checkpoints=10)
    assert poisoned[0].request_id not in stack.checkpoints()
    assert ("checkpoints", str(poisoned[0].request_id)) in stack.dead_letters()


def test_checkpoints_are_stored_while_clickhouse_is_down(stack: RecordStack) -> None:
    """The sinks do not wait for each other."""
    failures = stack.counter(FAILURES, "traces")
    assert stack.engine.pid is not None
    os.kill(stack.engine.pid, signal.SIGKILL)
    answers = stack.ask(20)
    failures.wait()
    stack.assert_recorded(answers, traces=-1)
    stack.assert_degraded("clickhouse")
    stack.engine.start()

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers)


def test_requests_are_served_while_clickhouse_is_frozen(stack: RecordStack) -> None:
    """Its connections stay open without an answer. Readiness reports it within its time limit."""
    assert stack.engine.pid is not None
    os.kill(stack.engine.pid, signal.SIGSTOP)
    answers = stack.ask(20)
    stack.assert_degraded("clickhouse")
    stack.assert_recorded(answers, traces=-1)
    os.kill(stack.engine.pid, signal.SIGCONT)

    assert not [answer for answer in answers if not answer.complete]
    stack.assert_recorded(answers)


def test_a_row_that_clickhouse_refuses_becomes_a_dead_letter(stack: RecordStack) -> None:
    """The other rows of its batch are stored, and so is its own checkpoint."""
    dead_lettered = stack.counter(BURIED, "traces")
    stack.tell_clickhouse("ADD CONSTRAINT no_poison CHECK model != 'gpt-poison'")
    answers = stack.ask(5) + (poisoned := stack.ask(1, model="gpt-poison")) + stack.ask(5)
    dead_lettered.wait()
    stack.assert_recorded(answers, traces=10)
    stack.tell_clickhouse("DROP CONSTRAINT no_poison")

    assert not [answer for answer in answers if not answer.complete]
    assert poisoned[0].request_id not in stack.traces()
    assert ("traces", str(poisoned[0].request_id)) in stack.dead_letters()


def test_a_stalled_disk_of_the_journal_only_delays_the_responses_that_it_records(stack: RecordStack) -> None:
    """Other requests are answered during the stall, and nothing is lost."""
    lost = stack.metric(LOSSES)
    with ThreadPoolExecutor(1) as thread:
        with stack.stalled_journal():
            asked = thread.submit(stack.ask, 4)
            deadline = time.monotonic() + WAIT_S
            while stack.metric("ibex_proxy_requests_under_way") < 4 and not asked.done():
                assert time.monotonic() < deadline
            refused = [stack.ask_as("no-token") for _ in range(50)]
            answered_early = asked.done()
        answers = asked.result()

    assert not answered_early
    assert {answer.status for answer in refused} == {401}
    assert not [answer for answer in answers if not answer.complete]
    assert stack.metric(LOSSES) == lost
    stack.assert_recorded(answers)


def test_losses_are_counted_while_the_disk_of_the_journal_is_full(stack: RecordStack, disk: SmallDisk) -> None:
    """Each sink counts its losses. Exchanges are recorded again once the disk has space."""
    stack.restart_proxy(IBEX_JOURNAL_DIR=str(disk.path / "journal"))
    losses = [stack.counter(LOSSES, sink) for sink in ("checkpoints", "traces")]
    stack.engine.stop()  # otherwise its deliveries free space in the journal
    disk.fill()
    asked = _ask_until_one_is_lost(stack)
    stack.assert_degraded("clickhouse", "journal")
    disk.make_room()
    stack.engine.start()
    stack.wait_until_ready()
    after = stack.ask(4)

    assert not [answer for answer in (*asked, *after) if not answer.complete]
    stack.assert_recorded(after)
    for read, lost in zip((stack.checkpoints, stack.traces), losses, strict=True):
        kept = len({answer.request_id for answer in asked} & set(read()))
        assert kept + lost.grown() == len(asked), lost.name
    stack.restart_proxy()


def test_a_proxy_that_starts_on_a_full_disk_serves(stack: RecordStack, disk: SmallDisk) -> None:
    """A worker must restart even then. IBEX opens the journal once the disk has space, without a restart."""
    disk.fill()
    stack.restart_proxy(IBEX_JOURNAL_DIR=str(disk.path / "journal"))
    lost = stack.ask(4)
    stack.assert_degraded("journal")
    counted = [stack.metric(LOSSES, sink=sink) for sink in ("checkpoints", "traces")]
    disk.make_room()
    stack.wait_until_ready()
    after = stack.ask(4)

    assert not [answer for answer in (*lost, *after) if not answer.complete]
    assert counted == [4, 4]
    stack.assert_recorded(after)
    stack.restart_proxy()


def test_a_full_journal_drops_traces_before_checkpoints(stack: RecordStack, tmp_path: Path) -> None:
    """ClickHouse is down, so its traces make room for checkpoints."""
    stack.restart_proxy(IBEX_JOURNAL_DIR=str(tmp_path / "journal"), IBEX_JOURNAL_MAX_BYTES="65536")
    stack.engine.stop()
    answers: list[Answer] = []
    for _ in range(5):
        answers += stack.ask(20)
        stack.assert_recorded(answers, traces=-1)
    dropped = int(stack.metric("ibex_proxy_journal_dropped_traces_total"))
    lost = stack.metric(LOSSES)
    stack.engine.start()

    assert not [answer for answer in answers if not answer.complete]
    assert dropped > 0
    assert lost == 0
    stack.assert_recorded(answers, traces=100 - dropped)
    stack.restart_proxy()


def test_a_flood_of_unknown_tokens_reaches_neither_auth_nor_the_record(stack: RecordStack) -> None:
    """Each of a thousand well-formed unknown tokens gets 401.

    Less than one in a hundred passes the Bloom filter, and no row is written.
    """
    lookups = "ibex_proxy_filter_lookups_total"
    _wait_for_the_filter(stack, lookups)
    rows = (len(stack.traces()), len(stack.checkpoints()))
    absent, passed = (stack.metric(lookups, outcome=outcome) for outcome in ("absent", "passed"))
    base_url = f"{stack.address}/v1"
    ids = [uuid4() for _ in range(FLOOD)]
    flood = [chat_request(base_url, "gpt-4o", {**_unknown(), "x-request-id": str(request_id)}) for request_id in ids]

    answers = as_fast_as_answered(base_url, flood, connections=200, most=FLOOD).answers

    assert [answer.status for answer in answers] == [401] * FLOOD
    assert stack.metric(lookups, outcome="passed") - passed < FLOOD / 100
    assert stack.metric(lookups, outcome="absent") - absent > FLOOD * 99 / 100
    known = stack.ask(2)
    assert {answer.status for answer in known} == {200}
    stack.assert_recorded(known)  # exchanges of the flood would have been delivered before these
    assert set(ids).isdisjoint([*stack.traces(), *stack.checkpoints()])
    found = (len(stack.traces()), len(stack.checkpoints()))
    assert all(
        now - before < FLOOD / 100 for now, before in zip(found, rows, strict=True)
    )  # no rows with other ids either


def test_a_flood_of_guesses_at_a_known_token_does_not_block_live_tokens(stack: RecordStack) -> None:
    """Each guess gets 401, or 503 from the limit for guesses. New tokens and the guessed one are served.

    Auth receives few of the guesses, and no row is written.
    """
    create = ("token", "create", "--agent", "one", "--json", "--name")
    fresh = [stack.production.ibex(*create, f"fresh-{number}")["token"] for number in range(FRESH)]
    base_url = f"{stack.address}/v1"
    known = UUID(stack.token.removeprefix("ibex_pat_")[:36])
    ids = [uuid4() for _ in range(FLOOD)]
    flood = [
        chat_request(base_url, "gpt-4o", {**_with_token(known), "x-request-id": str(request_id)}) for request_id in ids
    ]
    refused = stack.metric("ibex_proxy_filter_lookups_total", outcome="false_positive")
    began = time.monotonic()

    with ThreadPoolExecutor(1) as thread:
        flooding = thread.submit(as_fast_as_answered, base_url, flood, connections=200, most=FLOOD)
        seen = [answer for token in fresh for answer in (stack.ask_as(token), *stack.ask(1))]
        answers = flooding.result().answers

    took_s = time.monotonic() - began
    assert [answer.status for answer in seen] == [200] * 2 * FRESH
    statuses = Counter(answer.status for answer in answers)
    assert statuses.keys() == {401, 503}
    asked = stack.metric("ibex_proxy_filter_lookups_total", outcome="false_positive") - refused
    assert asked <= (FREE_GUESSES + 1) * (1 + took_s // 60) + LANE_BURST + LANE_CALLS_PER_SECOND * took_s
    assert stack.metric("ibex_proxy_auth_calls_refused_total", share="lane") > 0
    assert stack.metric("ibex_proxy_auth_calls_refused_total", share="first_seen") == 0
    stack.assert_recorded(seen)
    assert set(ids).isdisjoint([*stack.traces(), *stack.checkpoints()])


def _with_token(token_id: UUID) -> dict[str, str]:
    return {"authorization": f"Bearer {PersonalAccessToken.issue(token_id, os.urandom(32)).reveal()}"}


def _unknown() -> dict[str, str]:
    return _with_token(uuid4())


def _wait_for_the_filter(stack: RecordStack, lookups: str) -> None:
    """Send unknown tokens until the filter rejects one: a worker builds the filter after it starts."""
    deadline = time.monotonic() + WAIT_S
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    before = stack.metric(lookups, outcome="absent")
    while stack.metric(lookups, outcome="absent") == before:
        assert time.monotonic() < deadline, "no token was ever stopped by the filter"
        stack.client.post(f"{stack.address}/v1/chat/completions", json=body, headers=_unknown())


def _ask_until_one_is_lost(stack: RecordStack) -> list[Answer]:
    answers: list[Answer] = []
    deadline = time.monotonic() + WAIT_S
    while stack.metric(LOSSES) == 0:
        assert time.monotonic() < deadline, "the disk never filled"
        answers += stack.ask(20)
        time.sleep(POLL_S)
    return answers
