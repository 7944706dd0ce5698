"""Run an `ibex` command as a user would, in its own process, and wait for lines of its output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT_S = 30
_END = "(end of output)"
_MUCH = 1 << 20
_DEFAULTS = {"PYTHONUNBUFFERED": "1", "IBEX_DRAIN_DELAY": "0"}  # no load balancer has to notice that a process ends


@dataclass
class IbexProcess:
    """One running `ibex` command; ``lines`` holds the output of both streams."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _ignored: bool = False

    @classmethod
    def spawn(
        cls,
        arguments: list[str],
        environ: Mapping[str, str],
        folder: Path,
        *,
        module: str = "ibex.entrypoints.cli",
        python: str = sys.executable,
        prefix: Sequence[str] = (),
    ) -> IbexProcess:
        """Start a command in a folder, with nothing of this process's environment but the path.

        ``module`` runs the command line with other wiring, ``python`` uses the interpreter of another environment.
        ``prefix`` is a program that runs the command in turn.
        """
        process = subprocess.Popen(
            [*prefix, python, "-m", module, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **_DEFAULTS, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        started = cls(process)
        started._reader = threading.Thread(target=started._read, daemon=True)
        started._reader.start()
        return started

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._note(line.rstrip("\n"))
                if self._ignored:
                    break
            while self._ignored and os.read(output.fileno(), _MUCH):
                pass
        self._note(_END)

    def ignore_output(self) -> None:
        """Discard the output from now on, for measurements, in which each request logs a line."""
        self._ignored = True

    def _note(self, line: str) -> None:
        with self._news:
            self.lines.append(line)
            self._news.notify_all()

    def wait_for_line(self, text: str, timeout_s: float) -> str:
        """Wait for a line that contains the text, and return the first. A failure shows the output so far."""
        return self.wait_for_lines(text, 1, timeout_s)[0]

    def wait_for_lines(self, text: str, count: int, timeout_s: float) -> list[str]:
        """Wait for this many lines that contain the text, and return them."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self.lines[-1:] == [_END], timeout_s)
            lines = found()
        if len(lines) < count:
            raise AssertionError(f"{len(lines)} of {count} lines with {text!r} in:\n" + "\n".join(self.lines))
        return lines[:count]

    def stop(self, number: int = signal.SIGINT, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send a signal to the process alone and return its exit code."""
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the end of the process and return its exit code. On a timeout, kill it and fail the test."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self._reader is not None:
                self._reader.join(STOP_TIMEOUT_S)
