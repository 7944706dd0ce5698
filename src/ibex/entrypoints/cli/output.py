"""The output of commands: tables on a terminal, JSON for programs. Also the options that many commands share."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import rich_click as click

from ibex.entrypoints.cli.tables import Columns, table, terminal_width
from ibex.entrypoints.untrusted_text import sanitize_json, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ibex.entrypoints.cli.invocation import Invocation

Row = dict[str, Any]
_ABSENT: Final = "-"


class DotenvOption(click.Option):
    """An option whose value can come from a variable in the environment or in ``.env``."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the variable from the environment, else from ``.env``; None if neither has it."""
        found = super().resolve_envvar_value(ctx)
        invocation: Invocation | None = ctx.obj
        if found is not None or invocation is None or not isinstance(self.envvar, str):
            return found
        return invocation.environ_with_dotenv().get(self.envvar)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--json`` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def org_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--org`` to a command."""
    help_text = "Id or name of the organization. Default: the first one of the home folder, or the only one."
    return click.option("--org", cls=DotenvOption, envvar="IBEX_ORG", help=help_text)(command)


def show_rows(
    rows: Sequence[Row], *, as_json: bool, empty: str, columns: Mapping[str, str], spare: Collection[str] = ()
) -> None:
    """Print rows as a table, or as a JSON list with all fields.

    ``columns`` maps names of fields to headings. Columns in ``spare`` are omitted if the terminal is too narrow.
    ``empty`` is printed in place of a table without rows.
    """
    if as_json:
        write_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    texts = [{name: display(row[name]) for name in columns} for row in rows]
    lines = list(table(columns, texts, terminal_width(), spare))
    headings = len(lines) // (len(rows) + 1)
    for number, line in enumerate(lines):
        click.secho(line, bold=True if number < headings else None)


class GrowingTable:
    """A table whose rows arrive over time. The headings are printed once; the first rows determine the widths."""

    def __init__(self, columns: Mapping[str, str], spare: Collection[str] = ()) -> None:
        """Take ``columns`` and ``spare`` as ``show_rows`` does."""
        self._headings = columns
        self._spare = spare
        self._columns: Columns | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Print more rows, after the headings if they are the first ones."""
        texts = [{name: display(row[name]) for name in self._headings} for row in rows]
        if self._columns is None and texts:
            self._columns = Columns(self._headings, texts, terminal_width(), self._spare)
            for line in self._columns.lines(self._headings):
                click.secho(line, bold=True)
        for text in texts:
            for line in self._columns.lines(text) if self._columns else ():
                click.echo(line)


def show_one(row: Row, *, as_json: bool) -> None:
    """Print one row as a line for each field, or as a JSON object."""
    if as_json:
        write_json(row)
        return
    width = max(map(len, row))
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {display(value)}")


def write_json(value: Any) -> None:
    """Print one JSON document, with control characters escaped."""
    click.echo(sanitize_json(msgspec.json.encode(value).decode()))


def display(value: Any) -> str:
    """Return a value as text on one line, without control characters.

    None and the empty string are a dash. Times are local, with their offset from UTC.
    """
    match value:
        case None | "":
            return _ABSENT
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().isoformat(" ", "seconds")
        case float():
            return f"{value:.3f}"
        case _:
            return sanitize_line(value)
