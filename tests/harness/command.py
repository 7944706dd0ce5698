"""Run an `ibex` command in this process, which saves the second that a new process takes to start.

It is for the setup of tests. Other tests start the commands as processes.
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
    """The exit code of a command and its output."""

    returncode: int
    stdout: str
    stderr: str


def run_ibex(home: Path, environ: Mapping[str, str], *arguments: str) -> Ran:
    """Run a command on a folder, without this process's environment, and return its result.

    The command has its own event loop in its own thread, so that a coroutine test can call it.
    """
    invocation = Invocation(Home(home), environ, dotenv=str(home.parent / ".env"))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), ThreadPoolExecutor(1) as thread:
        code = thread.submit(main, list(arguments), invocation).result()
    return Ran(code, out.getvalue(), err.getvalue())
