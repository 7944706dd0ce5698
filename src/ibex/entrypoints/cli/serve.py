"""Running processes: ``ibex serve``, ``ibex migrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from ibex.entrypoints.cli.main import cli, settings_of

if TYPE_CHECKING:
    from ibex.entrypoints.home import Home


@cli.command()
@click.pass_obj
def serve(home: Home) -> None:
    """Run the proxy against the servers that the settings name."""
    from ibex.entrypoints.proxy import serve as run  # noqa: PLC0415 - keeps --help quick

    raise Exit(run(settings_of(home)))


@cli.command()
@click.pass_obj
def migrate(home: Home) -> None:
    """Bring PostgreSQL and ClickHouse to this version's schema."""
    from ibex.entrypoints.migrations import migrate as run  # noqa: PLC0415 - keeps --help quick

    for line in run(settings_of(home)):
        click.echo(line)
