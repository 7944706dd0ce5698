"""Runs an `ibex` command in this process: the very command line, without the second that a process takes to start.

For what a test needs done. That the commands work as processes is tested where they are started as such.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.cli.main import main
from ibex.entrypoints.home import Home

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_ibex(home: Path, environ: Mapping[str, str], *arguments: str) -> Ran:
    """Run a command on a folder, with nothing of this process's environment, and return how it ended.

    It has an event loop of its own in a thread of its own, so that a test that is a coroutine may run one as well.
    """
    invocation = Invocation(Home(home), environ, dotenv=str(home.parent / ".env"))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), ThreadPoolExecutor(1) as thread:
        code = thread.submit(main, list(arguments), invocation).result()
    return Ran(code, out.getvalue(), err.getvalue())
