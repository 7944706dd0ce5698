"""Several workers on one socket: stopping, the end of the supervisor, failing starts and settings.

``test_production`` covers the replacement of a worker that dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.process import IbexProcess
from harness.production import START_TIMEOUT_S, Production
from harness.readable import is_readable
from harness.rotation import wait_until
from ibex.entrypoints import workers
from ibex.entrypoints.home import Home
from ibex.entrypoints.outcome import EXIT_USAGE
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.worker_process import WorkerProcess, WorkerSlot
from ibex.entrypoints.workers import supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

END_TIMEOUT_S = 30


def test_a_stop_while_workers_start_succeeds(production: Production) -> None:
    """The workers have no signal handlers yet and nothing to finish, so the exit code is 0."""
    watcher = production.spawn_proxy(workers=2)
    watcher.wait_for_line("2 workers on", START_TIMEOUT_S)

    assert watcher.stop(signal.SIGTERM) == 0, watcher.lines


@pytest.fixture
async def _exit_codes_by_the_event_loop() -> AsyncIterator[None]:
    """Let the event loop collect exit codes, as from Python 3.12 on. Before, a thread collects them at any moment."""
    if sys.version_info >= (3, 12):
        yield
        return
    before, watcher = asyncio.get_child_watcher(), asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
    yield
    asyncio.set_child_watcher(before)
    watcher.close()


@pytest.mark.usefixtures("_exit_codes_by_the_event_loop")
async def test_a_worker_that_is_signalled_as_it_ends_keeps_its_exit_code() -> None:
    """The supervisor signals a worker twice if it stops while the worker starts."""
    worker = await WorkerProcess.spawn(WorkerSlot(listener=-1, parent_pipe=-1, number=0), {"IBEX_PORT": "none"})
    # It has ended, and the event loop has not collected its exit code.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - the event loop must wait

    worker.drain()

    assert await worker.ended == EXIT_USAGE


def test_workers_exit_if_the_supervisor_is_killed(production: Production) -> None:
    """After SIGKILL the supervisor cannot signal them. They detect its end by themselves."""
    production.start_proxy(workers=2)
    handles = [os.pidfd_open(pid) for pid in production.workers()]
    watcher = production.processes.pop()

    watcher.process.kill()

    for handle in handles:  # readable once the process has ended
        assert is_readable(handle, END_TIMEOUT_S)
        os.close(handle)
    assert watcher.wait() == -signal.SIGKILL


def test_a_worker_that_cannot_start_stops_all_workers(production: Production) -> None:
    """The supervisor exits with the worker's exit code and does not restart it repeatedly."""
    (production.folder / "journal").write_text("a file where a folder should be")

    watcher = production.spawn_proxy(workers=2)

    assert watcher.wait() == 1
    assert any("ended with code 1" in line for line in watcher.lines)


def test_a_worker_that_fails_after_a_long_start_is_not_restarted(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a start may take long. The worker has never served, so a restart would fail again."""
    (production.folder / "journal").write_text("a file where a folder should be")
    monkeypatch.setattr(workers, "EARLY_S", 0.0)

    assert supervise(Settings.load(production.environ), {**os.environ, **production.environ}, 1) == 1


def test_a_worker_that_dies_while_a_secret_is_unusable_is_replaced_later(production: Production) -> None:
    """The others serve with the old value, and the supervisor tries again until the file has a value."""
    secret = production.folder / "key"
    secret.write_text("sk-old")
    address = production.start_proxy(workers=2, OPENAI_API_KEY_FILE=str(secret))
    proxy = production.processes[-1]
    wait_until(lambda: len(production.workers()) == 2)
    heartbeats = "ibex_proxy_event_loop_silent_seconds{"
    wait_until(lambda: httpx.get(f"{address}/metrics", trust_env=False).text.count(heartbeats) == 2)
    secret.write_text("")

    os.kill(min(production.workers()), signal.SIGKILL)
    proxy.wait_for_line("ended with code 2", START_TIMEOUT_S)
    assert httpx.get(f"{address}/ready", trust_env=False).status_code == 200
    secret.write_text("sk-new")

    assert proxy.wait_for_lines("listening on", 3, START_TIMEOUT_S)


def test_a_database_role_with_too_many_rights_is_reported_without_a_traceback(
    production: Production, module_postgres: PostgresDatabase
) -> None:
    """The error names the role and the expected one, like every expected failure."""
    watcher = production.spawn_proxy(workers=2, IBEX_DATABASE_URL=module_postgres.owner_url)

    assert watcher.wait() == 1
    told = [line for line in watcher.lines if not line.startswith("{")]
    assert any("the database role" in line and "'ibex_app'" in line for line in told)
    assert not any("Traceback" in line or line.startswith(" ") for line in told)


def test_a_worker_imports_nothing_of_the_command_line(production: Production) -> None:
    """Only the supervisor imports it. Each process prints its imports while it starts."""
    production.start_proxy(workers=2, PYTHONPROFILEIMPORTTIME="1")

    imported = Counter(line.rpartition("|")[2].strip() for line in production.processes[-1].lines)

    assert imported["ibex.entrypoints.outcome"] == 3
    assert imported["ibex.entrypoints.containers"] == 2
    assert imported["rich_click"] == 1
    assert {imported[name] for name in imported if f"{name}.".startswith("ibex.entrypoints.cli.")} == {1}


def test_a_worker_imports_nothing_from_its_working_directory(production: Production) -> None:
    """A module in that directory does not break the worker that replaces a killed one."""
    production.start_proxy(workers=2)
    (production.folder / "queue.py").write_text("raise RuntimeError('imported')")

    os.kill(min(production.workers()), signal.SIGKILL)

    assert production.processes[-1].wait_for_lines("listening on", 3, START_TIMEOUT_S)


def test_settings_of_the_home_and_of_dotenv_reach_workers(production: Production) -> None:
    """Workers get the settings that the supervisor has read from either place."""
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


def test_several_workers_require_auth_and_redis(production: Production) -> None:
    """Workers must not differ in what they know about tokens, so the command exits with code 2."""
    del production.environ["IBEX_AUTH_ADDRESS"], production.environ["IBEX_REDIS_URL"]

    watcher = production.spawn_proxy(workers=2)

    assert watcher.wait() == 2
    assert any("IBEX_AUTH_ADDRESS is not set" in line for line in watcher.lines)


def test_a_worker_slot_can_be_parsed_from_its_string() -> None:
    """The string is an argument of the worker's command line."""
    slot = WorkerSlot(3, 5, 1, 7, ops=9)
    assert WorkerSlot.parse(str(slot)) == slot
