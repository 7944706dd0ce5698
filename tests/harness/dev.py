"""Runs `ibex dev` as a user would: a process of its own, on a folder of its own, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

READY = "IBEX is ready"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


@dataclass
class IbexDev:
    """One running `ibex dev`."""

    home: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    def start(cls, home: Path, environ: Mapping[str, str], *arguments: str) -> IbexDev:
        """Start it and return once it says that it is ready; its output so far is in the error if it does not."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ibex.entrypoints.cli", "--home", str(home), "dev", "--port", "0", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(home.parent), "PYTHONUNBUFFERED": "1", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=home.parent,
            start_new_session=True,
        )
        dev = cls(home, process)
        threading.Thread(target=dev._read, daemon=True).start()
        dev.wait_for_line(READY, START_TIMEOUT_S)
        return dev

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("(end of output)")
            self._news.notify_all()

    def wait_for_line(self, text: str, timeout_s: float) -> str:
        """Return the first line that holds the text, waiting for it."""

        def found() -> str | None:
            line = next((line for line in self.lines if text in line), None)
            return "" if line is None and self.lines and self.lines[-1] == "(end of output)" else line

        with self._news:
            line = self._news.wait_for(lambda: found() is not None, timeout_s) and found()
        if not line:
            raise AssertionError(f"no line with {text!r} in:\n" + "\n".join(self.lines))
        return line

    @property
    def installation(self) -> dict[str, str]:
        """What the first start made, tokens included."""
        return dict(json.loads((self.home / "installation.json").read_text()))

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return str(json.loads((self.home / "running.json").read_text())["address"])

    def ibex(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another `ibex` command on the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "ibex.entrypoints.cli", "--home", str(self.home), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home.parent)},
            capture_output=True,
            text=True,
            cwd=self.home.parent,
            timeout=60,
            check=False,
        )

    def ibex_json(self, *arguments: str) -> Any:
        """Run another `ibex` command with ``--json`` and return what it says; it must succeed."""
        done = self.ibex(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to it alone and return its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
