"""Programs that answer each line with a line: the victim and the attackers, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from benchmarks.attacks.options import ROOT

if TYPE_CHECKING:
    from types import TracebackType

_END_S: Final = 10


class Program:
    """A running module of this package; it ends with the block, and is killed if it does not."""

    def __init__(self, module: str, *arguments: str, first_line: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.attacks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._say(first_line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()

    def ask(self, line: str, most_s: float) -> str:
        """Send a line and return the line that answers it; empty if none comes in time, which ends the program."""
        killer = threading.Timer(most_s, self._process.kill)
        killer.start()
        try:
            self._say(line)
            return self._process.stdout.readline() if self._process.stdout else ""
        except BrokenPipeError:
            return ""
        finally:
            killer.cancel()

    def end(self) -> None:
        """End the program. Calling it again does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
