"""Several workers on one socket: ended with who watches over them, told when to stop, given up if they cannot start.

That one that dies is replaced is tested in ``test_production``.
"""

from __future__ import annotations

import os
import select
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from harness.process import IbexProcess
from harness.production import START_TIMEOUT_S, Production
from ibex.entrypoints import workers
from ibex.entrypoints.home import Home
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.workers import WorkerSlot, supervise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

END_TIMEOUT_S = 30


@pytest.fixture(scope="module")
def with_auth(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Production]:
    """The settings for these servers, and an auth for all tests here."""
    stack = Production.over(module_postgres, module_clickhouse, module_redis.url, tmp_path_factory.mktemp("workers"))
    stack.start_auth()
    yield stack
    stack.stop()


@pytest.fixture
def production(with_auth: Production, tmp_path: Path) -> Iterator[Production]:
    """The same in a folder of the test's own; what it starts is stopped."""
    stack = Production({**with_auth.environ, "IBEX_JOURNAL_DIR": str(tmp_path / "journal")}, tmp_path)
    yield stack
    stack.stop()


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


def test_one_that_cannot_start_may_take_long(production: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to try again and again: what counts is that it never served."""
    (production.folder / "journal").write_text("a file where a folder should be")
    monkeypatch.setattr(workers, "EARLY_S", 0.0)

    assert supervise(Settings.load(production.environ), {**os.environ, **production.environ}, 1) == 1


def test_a_role_that_may_do_too_much_is_told_without_a_traceback(
    production: Production, module_postgres: PostgresDatabase
) -> None:
    """What the mistake is, as of every expected failure."""
    watcher = production.spawn_proxy(workers=2, IBEX_DATABASE_URL=module_postgres.owner_url)

    assert watcher.wait() == 1
    told = [line for line in watcher.lines if not line.startswith("{")]
    assert any("the database role" in line and "'ibex_app'" in line for line in told)
    assert not any("Traceback" in line or line.startswith(" ") for line in told)


def test_a_worker_imports_nothing_of_the_command_line(production: Production) -> None:
    """Only the process that watches over them does; each says what it imports while it starts."""
    production.start_proxy(workers=2, PYTHONPROFILEIMPORTTIME="1")

    imported = Counter(line.rpartition("|")[2].strip() for line in production.processes[-1].lines)

    assert imported["ibex.entrypoints.outcome"] == 3
    assert imported["ibex.entrypoints.containers"] == 2
    assert imported["rich_click"] == 1
    assert {imported[name] for name in imported if name.startswith("ibex.entrypoints.cli")} == {1}


def test_a_worker_imports_nothing_of_the_folder_where_it_starts(production: Production) -> None:
    """Whatever lies there by then: here where one is replaced that was killed."""
    production.start_proxy(workers=2)
    (production.folder / "queue.py").write_text("raise RuntimeError('imported')")

    os.kill(min(production.workers()), signal.SIGKILL)

    assert production.processes[-1].wait_for_lines("listening on", 3, START_TIMEOUT_S)


def test_settings_of_the_folder_and_of_dotenv_reach_workers(production: Production) -> None:
    """Whatever the process that watches over them has read, wherever that was."""
    home = Home(production.folder / "elsewhere")
    of_the_home = ("IBEX_DATABASE_URL", "IBEX_CLICKHOUSE_URL")
    of_dotenv = ("IBEX_REDIS_URL", "IBEX_AUTH_ADDRESS", "IBEX_AUTH_SERVICE_TOKEN")
    environ = {name: value for name, value in production.environ.items() if name not in of_the_home + of_dotenv}
    (production.folder / ".env").write_text("".join(f"{name}={production.environ[name]}\n" for name in of_dotenv))

    with home.claim():
        home.announce("http://127.0.0.1:1", {name: production.environ[name] for name in of_the_home})
        arguments = ["--home", str(home.path), "serve", "--workers", "2"]
        watcher = IbexProcess.spawn(arguments, environ, production.folder)
        production.processes.append(watcher)
        assert watcher.wait_for_lines("listening on", 2, START_TIMEOUT_S)


def test_several_workers_need_auth_and_redis(production: Production) -> None:
    """What they know of tokens must not be each one's own."""
    del production.environ["IBEX_AUTH_ADDRESS"], production.environ["IBEX_REDIS_URL"]

    watcher = production.spawn_proxy(workers=2)

    assert watcher.wait() == 2
    assert any("IBEX_AUTH_ADDRESS is not set" in line for line in watcher.lines)


def test_a_place_is_told_in_one_word() -> None:
    """On the worker's command line."""
    assert WorkerSlot.parse(str(WorkerSlot(3, 5, 1, 7))) == WorkerSlot(3, 5, 1, 7)
