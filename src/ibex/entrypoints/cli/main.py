"""The root of the command line: global options, the list of commands, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ibex.entrypoints.cli.chat import chat
from ibex.entrypoints.cli.directives import directive
from ibex.entrypoints.cli.doctor import doctor
from ibex.entrypoints.cli.identity import agent, org, token
from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.cli.journal import journal
from ibex.entrypoints.cli.processes import auth, bootstrap_command, dev, migrate, serve
from ibex.entrypoints.cli.records import sessions
from ibex.entrypoints.cli.traces import traces
from ibex.entrypoints.home import DEFAULT_HOME, Home
from ibex.entrypoints.outcome import EXIT_FAILED, exit_code_of
from ibex.entrypoints.process_tuning import collect_rarely
from ibex.entrypoints.untrusted_text import sanitize


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="IBEX_HOME",
    default=DEFAULT_HOME,
    show_default=True,
    help="The folder of the embedded instance. Commands find the running instance there.",
)
@click.version_option(package_name="ibex-harness", prog_name="ibex")
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    """IBEX, an LLM proxy that authenticates, rate-limits, directs, forwards and records requests to OpenAI's API."""
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
    journal,
    doctor,
    chat,
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None, invocation: Invocation | None = None) -> int:
    """Run a command and return its exit code: 0 for success, 1 for a failure, 2 for invalid usage or settings.

    `ibex migrate --check` returns 3 if migrations are pending.
    """
    if invocation is None:  # a new process, whose imports create many objects that live until it ends
        collect_rarely()

    def run() -> int:
        try:
            code: Any = cli.main(arguments, prog_name="ibex", standalone_mode=False, obj=invocation)
        except click.ClickException as failure:
            failure.message = sanitize(failure.message)  # type: ignore[misc]  # final to subclasses
            failure.show()
            return failure.exit_code
        except click.Abort:
            return EXIT_FAILED
        return code if isinstance(code, int) else 0

    return exit_code_of(run)
