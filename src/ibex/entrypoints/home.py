"""The folder of the embedded default (``.ibex/``): data, generated secrets, and the address of the running proxy.

Only the owner can access it (mode 0700, files 0600).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import shlex
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ibex.entrypoints.setting_values import EMBEDDED_PEPPER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEFAULT_HOME = ".ibex"
ECHO = "echo"
"""The provider of a proxy without an API key."""


class HomeInUseError(Exception):
    """Another process uses this folder. The message contains its process id."""


@dataclass(frozen=True, slots=True)
class FirstInstallation:
    """The objects that the first start created, with their tokens, to show them again. The repr shows no token."""

    org_id: str
    org_name: str
    agent_id: str
    agent_name: str
    agent_token: str
    admin_token: str

    def __repr__(self) -> str:
        return f"<FirstInstallation org={self.org_name!r} agent={self.agent_name!r}>"


class Home:
    """The folder of an installation. The constructor does not access the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.postgres = path / "postgres"
        self.clickhouse = path / "clickhouse"
        self.journal = path / "journal"
        self.log = path / "proxy.log"
        self.epoch = path / "epoch"
        self._lock = path / "lock"
        self._peppers = path / "token_peppers"
        self._installation = path / "installation.json"
        self._running = path / "running.json"

    def may_exist(self) -> bool:
        """Return False if the folder does not exist, and True if it does or if this user cannot find out."""
        try:
            return self.path.is_dir()
        except PermissionError:
            return True

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Create the folder if necessary, and lock it for this process.

        Raises ``HomeInUseError`` if another process holds the lock, and ``OSError`` with the file's name if a folder or
        file cannot be created or written.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise HomeInUseError(self._in_use(owner)) from None
            with _naming(self._lock):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            self._running.unlink(missing_ok=True)
            yield
            self._running.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _in_use(self, owner: str) -> str:
        """Return the message that another process, with this id, uses the folder."""
        address = self.running_address()
        where = f" at {address}" if address is not None else ""
        by_signal = f" or `kill -INT {owner}`" if owner.isdecimal() else ""
        other = shlex.quote(f"{self.path}2")
        return (
            f"IBEX already runs in {self.path}{where} (pid {owner}). Stop it with Ctrl-C in its terminal{by_signal}."
            f" Start a second one with another folder: `ibex --home {other} dev`."
        )

    def token_peppers(self) -> str:
        """Return the folder's pepper in the format of ``IBEX_TOKEN_PEPPERS``. The first call generates it."""
        if not self._peppers.exists():
            _write_private(self._peppers, f"{EMBEDDED_PEPPER}:" + base64.b64encode(secrets.token_bytes(32)).decode())
        return self._peppers.read_text(encoding="ascii")

    def installation(self) -> FirstInstallation | None:
        """Return the objects that the first start created, None before it."""
        found = _read_json(self._installation)
        return FirstInstallation(**found) if found else None

    def remember_installation(self, installation: FirstInstallation) -> None:
        """Store the objects that the first start created."""
        _write_private(self._installation, json.dumps(asdict(installation), indent=2))

    def announce(self, address: str, environ: Mapping[str, str], provider: str | None = None) -> None:
        """Store, for other commands, the proxy's address, the settings that reach its servers, and its provider.

        The provider is ``ECHO`` or a base URL. None: other commands do not know it.
        """
        announced = {"address": address, "environ": dict(environ), "provider": provider}
        _write_private(self._running, json.dumps(announced, indent=2))

    def running_environ(self) -> dict[str, str]:
        """Return the settings that reach the running servers; empty if IBEX is not running."""
        found = self._announced()
        return dict(found["environ"]) if found else {}

    def running_address(self) -> str | None:
        """Return the running proxy's URL, which includes its base path; None if IBEX is not running."""
        found = self._announced()
        return str(found["address"]) if found else None

    def running_provider(self) -> str | None:
        """Return the running proxy's provider, as ``announce`` stored it; None if IBEX is not running."""
        found = self._announced() or {}
        return found.get("provider")

    def _announced(self) -> dict[str, Any] | None:
        """Return what ``announce`` stored, None if its process has ended or if this user cannot read it."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except OSError:  # the folder of another user, for example, which is the working directory of a container
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read_json(self._running)
        else:
            return None
        finally:
            os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to an ``OSError`` that lacks it, such as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _write_private(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.unlink(missing_ok=True)
    with _naming(path):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, PermissionError):  # PermissionError: the folder of another user
        return None
    return found if isinstance(found, dict) else None
