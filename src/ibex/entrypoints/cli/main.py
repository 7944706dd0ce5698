"""The root of the command line: what all commands share, and what their failures look like."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import rich_click as click

from ibex.domain.errors import IbexError
from ibex.domain.manage_identity import AlreadyExistsError
from ibex.domain.sessions import SinkUnavailableError
from ibex.entrypoints.home import DEFAULT_HOME, Home, HomeInUseError
from ibex.entrypoints.settings import Settings, SettingsError

EXIT_FAILED = 1
EXIT_USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="IBEX_HOME",
    default=DEFAULT_HOME,
    show_default=True,
    help="The folder of the embedded default.",
)
@click.version_option(package_name="ibex-harness")
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    """An LLM proxy: authenticates, limits, directs, forwards and records every request to OpenAI's API."""
    context.obj = Home(home)


def settings_of(home: Home) -> Settings:
    """Return the settings of a command: the environment's over those of what runs on the folder."""
    return Settings.load({**home.running_environ(), **os.environ})


def main() -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    from ibex.entrypoints.cli import dev, serve  # noqa: F401, PLC0415 - they register themselves

    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except click.Abort:
        return EXIT_FAILED
    except SettingsError as wrong:
        return _fail(f"{wrong} If you meant the embedded default: nothing runs there; start `ibex dev`.", EXIT_USAGE)
    except IbexError as failure:
        return _fail(failure.message, EXIT_FAILED)
    except (AlreadyExistsError, SinkUnavailableError, HomeInUseError, OSError, ValueError) as failure:
        return _fail(str(failure), EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"ibex: {message}\n")
    return code
