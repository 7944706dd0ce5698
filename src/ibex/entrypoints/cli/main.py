"""The root of the command line, and what failures look like: one line, and an exit code that scripts can use."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any, Final

import rich_click as click

from ibex.domain.errors import IbexError
from ibex.domain.journal import JournalUnavailableError
from ibex.domain.manage_identity import AlreadyExistsError
from ibex.domain.sessions import SinkUnavailableError
from ibex.entrypoints.cli.chat import chat
from ibex.entrypoints.cli.directives import directive
from ibex.entrypoints.cli.doctor import doctor
from ibex.entrypoints.cli.identity import agent, org, token
from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.cli.processes import auth, bootstrap_command, dev, migrate, serve
from ibex.entrypoints.cli.records import sessions
from ibex.entrypoints.cli.traces import traces
from ibex.entrypoints.home import DEFAULT_HOME, Home, HomeInUseError
from ibex.entrypoints.settings import MissingSettingError, SettingsError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
GC_THRESHOLDS: Final = (50_000, 20, 20)
"""By default what is being imported would be looked through again and again: a sixth of the time to start."""
EXPECTED: Final = (
    IbexError,
    AlreadyExistsError,
    SinkUnavailableError,
    JournalUnavailableError,
    HomeInUseError,
    OSError,
    ValueError,
)
"""What is told in one line: the world's failures. Anything else is a bug and shows itself."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="IBEX_HOME",
    default=DEFAULT_HOME,
    show_default=True,
    help="The folder of the embedded default; commands find there what runs.",
)
@click.version_option(package_name="ibex-harness", prog_name="ibex")
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    """An LLM proxy: authenticates, limits, directs, forwards and records every request to OpenAI's API."""
    if context.obj is None:
        context.obj = Invocation(Home(home))


for _command in (
    dev,
    serve,
    auth,
    migrate,
    bootstrap_command,
    org,
    agent,
    token,
    directive,
    sessions,
    traces,
    doctor,
    chat,
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None, invocation: Invocation | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    if invocation is None:  # a process of its own, which begins by importing much that stays
        gc.set_threshold(*GC_THRESHOLDS)
    try:
        code: Any = cli.main(arguments, prog_name="ibex", standalone_mode=False, obj=invocation)
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_FAILED
    except MissingSettingError as missing:
        return _fail(f"{missing}\nFor the embedded default: nothing runs there now; `ibex dev` starts it.", EXIT_USAGE)
    except SettingsError as wrong:
        return _fail(str(wrong), EXIT_USAGE)
    except EXPECTED as failure:
        return _fail(_said(failure), EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _said(failure: Exception) -> str:
    if isinstance(failure, IbexError):
        return failure.message
    return (failure.strerror if isinstance(failure, OSError) else None) or str(failure)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"ibex: {message}\n")
    return code
