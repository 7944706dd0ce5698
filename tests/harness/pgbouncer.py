"""PgBouncer in transaction mode before a PostgreSQL server, from the PATH or Debian's package, not installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from harness.debian import program_of_package
from harness.servers import free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACES: Final = ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer")
_USERS: Final = ("postgres", "ibex_owner", "ibex_app", "ibex_auth")
# The defaults, but for trust and for the retry after a failed login: 15 s would be too long for a fail-over.
_CONFIG: Final = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
server_login_retry = 1
admin_users = postgres
logfile = {folder}/log
pidfile = {folder}/pid
{more}
"""


def pgbouncer_program() -> str | None:
    """Return the path of PgBouncer, after fetching Debian's package if necessary; None if that is not possible."""
    found = shutil.which("pgbouncer") or next((path for path in _PLACES if Path(path).exists()), None)
    if found is not None:
        return found
    program = program_of_package("pgbouncer", "usr/sbin/pgbouncer")
    return program if program is not None and _starts(program) else None


def _starts(program: str) -> bool:
    """Return whether the libraries that the program needs are installed."""
    return subprocess.run([program, "--version"], check=False, capture_output=True).returncode == 0


@contextmanager
def pgbouncer(program: str, server: str, *more: str, pool_size: int = 20) -> Iterator[int]:
    """Run PgBouncer before a server, such as ``host=/directory`` or ``host=127.0.0.1 port=5432``; yield its port.

    ``more`` are lines of its configuration.
    """
    with tempfile.TemporaryDirectory(prefix="ibex-pgbouncer-") as folder:
        is_root = os.geteuid() == 0  # PgBouncer refuses to run as root
        port = free_port()
        config = Path(folder) / "pgbouncer.ini"
        lines = "\n".join([*more, *(["user = nobody"] if is_root else [])])
        config.write_text(_CONFIG.format(server=server, port=port, folder=folder, pool_size=pool_size, more=lines))
        (Path(folder) / "users").write_text("".join(f'"{name}" ""\n' for name in _USERS))
        if is_root:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
            for file in Path(folder).iterdir():
                file.chmod(0o644)
        with listening([program, "-q", str(config)], port):
            yield port


@pytest.fixture(scope="session")
def pgbouncer_path() -> str:
    """The path of PgBouncer."""
    program = pgbouncer_program()
    if program is None:
        pytest.skip("there is no pgbouncer, and no Debian package of it")
    return program
