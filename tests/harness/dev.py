"""Run `ibex dev` as a user would: in its own process and its own folder, on a free port."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command import Ran, run_ibex
from harness.process import IbexProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READY = "IBEX is ready"
START_TIMEOUT_S = 60


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """Create a folder outside pytest's, to which pytest denies access by other users.

    PostgreSQL, started by root, runs as another user and needs access to the folder's path.
    """
    folder = Path(tempfile.mkdtemp(prefix="ibex-dev-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class IbexDev:
    """One running `ibex dev`."""

    home: Path
    running: IbexProcess

    @classmethod
    def start(cls, home: Path, environ: Mapping[str, str], *arguments: str) -> IbexDev:
        """Start the process and return once it reports that it is ready."""
        command = ["--home", str(home), "dev", "--port", "0", *arguments]
        dev = cls(home, IbexProcess.spawn(command, environ, home.parent))
        dev.wait_for_line(READY, START_TIMEOUT_S)
        return dev

    @property
    def lines(self) -> list[str]:
        """The lines that the process has written so far."""
        return self.running.lines

    def wait_for_line(self, text: str, timeout_s: float) -> str:
        """Wait for a line that contains the text, and return the first."""
        return self.running.wait_for_line(text, timeout_s)

    @property
    def installation(self) -> dict[str, str]:
        """The installation that the first start created, with its tokens."""
        return dict(json.loads((self.home / "installation.json").read_text()))

    @property
    def address(self) -> str:
        """The address of the proxy."""
        return str(json.loads((self.home / "running.json").read_text())["address"])

    def ibex(self, *arguments: str) -> Ran:
        """Run another `ibex` command on the same folder, in the test's process."""
        return run_ibex(self.home, {}, *arguments)

    def ibex_json(self, *arguments: str) -> Any:
        """Run another `ibex` command with ``--json`` and return its output; the command must succeed."""
        done = self.ibex(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to the process alone and return its exit code."""
        return self.running.stop(number)


def processes_on(home: Path) -> list[str]:
    """Return the processes that have the folder in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(home) in command:
            found.append(command)
    return found
