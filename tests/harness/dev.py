"""Runs `ibex dev` as a user would: a process of its own, on a folder of its own, on a free port."""

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
    """Make a folder outside of pytest's, which every session of pytest closes to others again.

    PostgreSQL, started by root, runs as somebody else and has to pass through it.
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
        """Start it and return once it says that it is ready."""
        command = ["--home", str(home), "dev", "--port", "0", *arguments]
        dev = cls(home, IbexProcess.spawn(command, environ, home.parent))
        dev.wait_for_line(READY, START_TIMEOUT_S)
        return dev

    @property
    def lines(self) -> list[str]:
        """What it has written so far."""
        return self.running.lines

    def wait_for_line(self, text: str, timeout_s: float) -> str:
        """Return the first line that holds the text, waiting for it."""
        return self.running.wait_for_line(text, timeout_s)

    @property
    def installation(self) -> dict[str, str]:
        """What the first start made, tokens included."""
        return dict(json.loads((self.home / "installation.json").read_text()))

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return str(json.loads((self.home / "running.json").read_text())["address"])

    def ibex(self, *arguments: str) -> Ran:
        """Run another `ibex` command on the same folder: from here, thus from another process."""
        return run_ibex(self.home, {}, *arguments)

    def ibex_json(self, *arguments: str) -> Any:
        """Run another `ibex` command with ``--json`` and return what it says; it must succeed."""
        done = self.ibex(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to it alone and return its exit code."""
        return self.running.stop(number)


def processes_on(home: Path) -> list[str]:
    """Return the processes that have the folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(home) in command:
            found.append(command)
    return found
