"""The parts of `make bench-gate` that use the system: CPU counters of other processes, and checking out a baseline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from benchmarks import bench_gate
from benchmarks.regression.counters import (
    CALLS_FOLDER,
    PROBE,
    count_calls,
    cpu_ns,
    find_cpu_counter,
    perf_count,
    wait_until_idle,
)
from benchmarks.regression.trees import (
    TREE,
    UnknownCommitError,
    checked_out,
    describe_tree,
    find_baseline,
    require_importable,
)

from harness.production import BOOTSTRAP, Production

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

_WORKER: Final = """
import sys, threading
def one(): return len("abc")
def calls(count):
    for _ in range(count): one()
for line in sys.stdin:
    first, others = map(int, line.split())
    thread = threading.Thread(target=calls, args=(others,))
    thread.start()
    calls(first)
    thread.join()
    print("done", flush=True)
"""


@contextmanager
def worker(**environ: str) -> Iterator[tuple[int, Callable[[int, int], None]]]:
    """Run a process. Yield its id and a function that makes it do some calls in its first thread and in another."""
    command = [sys.executable, "-S", "-c", _WORKER] if not environ else [sys.executable, "-c", _WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def work(first: int, others: int) -> None:
            stdin.write(f"{first} {others}\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        work(1, 1)  # it has started
        yield process.pid, work
        stdin.close()


def git(folder: Path, *arguments: str) -> str:
    """Run git without the user's configuration."""
    identity = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **identity}
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits of a package ``ibex`` in ``src``: versions 1 and 2."""
    folder = tmp_path / "repository"
    package = folder / "src" / "ibex"
    package.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for version in ("1", "2"):
        (package / "__init__.py").write_text(f"VERSION = {version}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", f"Version {version}")
    return folder


def test_only_calls_of_the_first_thread_are_counted(tmp_path: Path) -> None:
    """Each iteration of its loop makes two calls. Calls of the other thread are not counted."""
    with worker(PYTHONPATH=str(PROBE), **{CALLS_FOLDER: str(tmp_path)}) as (pid, work):
        with count_calls(tmp_path, pid) as few:
            work(1_000, 0)
        with count_calls(tmp_path, pid) as many:
            work(3_000, 5_000)

    assert 2_000 <= few.amount < 2_200
    assert many.amount - few.amount == pytest.approx(4_000, abs=100)


def test_calls_are_not_counted_without_a_folder(tmp_path: Path) -> None:
    """The probe does nothing if the environment names no folder."""
    with worker(PYTHONPATH=str(PROBE)) as (pid, work):
        work(1, 1)
        assert not (tmp_path / str(pid)).exists()
        with pytest.raises(FileNotFoundError), count_calls(tmp_path, pid):
            pass


def test_the_cpu_counter_includes_every_thread() -> None:
    """Ten times the work counts as several times as much, with any counter that this machine has."""
    counter = find_cpu_counter()
    with worker() as (pid, work):
        with counter.over(pid) as little:
            work(100_000, 100_000)
        with counter.over(pid) as much:
            work(1_000_000, 1_000_000)

    assert little.amount > 0
    assert 3 < much.amount / little.amount < 30


def test_perf_counts_between_start_and_stop() -> None:
    """The test counts the clock, which perf supports on every machine. The error for an unknown event names it."""
    with worker() as (pid, work):
        try:
            with perf_count(pid, "task-clock") as counted:
                work(250_000, 250_000)
        except (FileNotFoundError, RuntimeError) as error:
            pytest.skip(f"perf counts nothing here: {error}")
        assert counted.amount > 0
        with pytest.raises(RuntimeError, match="no-such-event"), perf_count(pid, "no-such-event"):
            work(1, 1)


def test_waiting_until_idle_returns_for_an_idle_process() -> None:
    """It returns for a process that waits for input, and raises for a process that has ended."""
    with worker() as (pid, _):
        wait_until_idle(pid)
        assert cpu_ns(pid) > 0
    with pytest.raises(OSError, match="No such process"):
        wait_until_idle(pid)


def test_waiting_until_idle_times_out_for_a_busy_process() -> None:
    """A worker that never becomes idle makes the measurement fail."""
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as process:
        try:
            with pytest.raises(TimeoutError, match="was not idle"):
                wait_until_idle(process.pid, timeout_s=1.0)
        finally:
            process.kill()


def test_the_baseline_is_checked_out_in_a_worktree_and_removed(repository: Path) -> None:
    """The worktree has the files of its commit and can be imported. Afterwards the repository has no trace of it."""
    with checked_out(find_baseline("HEAD~1", repository), repository) as tree:
        assert (tree / "src" / "ibex" / "__init__.py").read_text() == "VERSION = 1\n"
        require_importable(sys.executable, tree / "src")
        assert "ibex-baseline-" in git(repository, "worktree", "list")

    assert not tree.exists()
    assert "ibex-baseline-" not in git(repository, "worktree", "list")
    with pytest.raises(RuntimeError, match="does not import IBEX"):
        require_importable(sys.executable, tree / "src")


def test_the_default_baseline_is_the_start_of_the_branch(repository: Path) -> None:
    """This is where HEAD left origin/main. On origin/main, or without it, it is the previous commit."""
    first, second = git(repository, "rev-parse", "HEAD~1"), git(repository, "rev-parse", "HEAD")

    assert find_baseline(None, repository) == first
    git(repository, "update-ref", "refs/remotes/origin/main", second)
    assert find_baseline(None, repository) == first
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Version 3")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Version 4")
    assert find_baseline(None, repository) == second
    with pytest.raises(UnknownCommitError, match="'no-such'"):
        find_baseline("no-such", repository)


def test_uncommitted_changes_are_in_the_description_of_the_tree(repository: Path) -> None:
    """They are part of the measurement, so the report must mention them next to the commit."""
    assert describe_tree(repository).endswith("(Version 2)")
    (repository / "src" / "ibex" / "__init__.py").write_text("VERSION = 3\n")
    assert describe_tree(repository).endswith("(Version 2) with uncommitted changes")


def test_an_unknown_baseline_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code differs from that of a regression, and the message says what to do."""
    assert bench_gate.main(["--base", "no-such-commit"]) == bench_gate.NOT_MEASURED
    assert "'no-such-commit'. Name another one with --base." in capsys.readouterr().err


def test_the_interpreter_imports_the_requested_source() -> None:
    """The requested source takes precedence over the IBEX that is installed in the environment."""
    require_importable(sys.executable, TREE / "src")


def test_another_source_migrates_its_databases_with_its_own_command(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """The schema of the baseline may differ. The error for a failed command contains the reason."""
    production = Production.over(
        empty_postgres, empty_clickhouse, "redis://127.0.0.1:1/0", tmp_path, PYTHONPATH=str(TREE / "src")
    )

    production.command("migrate", IBEX_OWNER_DATABASE_URL=empty_postgres.owner_url)
    assert json.loads(production.command(*BOOTSTRAP, "--json"))["agent_token"]
    with pytest.raises(RuntimeError, match=r"ibex migrate ended with exit code \d+: .*IBEX_OWNER_DATABASE_URL"):
        production.command("migrate", IBEX_OWNER_DATABASE_URL="postgresql://127.0.0.1:1/none")
