"""Tables for people, JSON for programs."""

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
_NOTHING: Final = "-"


class DotenvOption(click.Option):
    """An option instead of which a variable may stand, in the environment or in ``.env``."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the variable's value, the environment's before the file's; None where it has none."""
        found = super().resolve_envvar_value(ctx)
        invocation: Invocation | None = ctx.obj
        if found is not None or invocation is None or not isinstance(self.envvar, str):
            return found
        return invocation.environ_with_dotenv().get(self.envvar)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")(command)


def org_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--org``."""
    help_text = "Id or name. Default: the folder's first organization, or the only one."
    return click.option("--org", cls=DotenvOption, envvar="IBEX_ORG", help=help_text)(command)


def show_rows(
    rows: Sequence[Row], *, as_json: bool, empty: str, columns: Mapping[str, str], spare: Collection[str] = ()
) -> None:
    """Show many things: a table of the columns (name to heading), or JSON of everything.

    What is ``spare`` is left out on a terminal that has no room for it.
    """
    if as_json:
        write_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    texts = [{name: shown(row[name]) for name in columns} for row in rows]
    lines = list(table(columns, texts, terminal_width(), spare))
    headings = len(lines) // (len(rows) + 1)
    for number, line in enumerate(lines):
        click.secho(line, bold=True if number < headings else None)


class GrowingTable:
    """Many things as they come: the headings once, and columns that are as wide as the first things need."""

    def __init__(self, columns: Mapping[str, str], spare: Collection[str] = ()) -> None:
        """Take what ``show_rows`` takes."""
        self._headings = columns
        self._spare = spare
        self._columns: Columns | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Show some more; nothing before the first."""
        texts = [{name: shown(row[name]) for name in self._headings} for row in rows]
        if self._columns is None and texts:
            self._columns = Columns(self._headings, texts, terminal_width(), self._spare)
            for line in self._columns.lines(self._headings):
                click.secho(line, bold=True)
        for text in texts:
            for line in self._columns.lines(text) if self._columns else ():
                click.echo(line)


def show_one(row: Row, *, as_json: bool) -> None:
    """Show one thing: a line a field, or JSON."""
    if as_json:
        write_json(row)
        return
    width = max(map(len, row))
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {shown(value)}")


def write_json(value: Any) -> None:
    """Write one JSON document."""
    click.echo(sanitize_json(msgspec.json.encode(value).decode()))


def shown(value: Any) -> str:
    """Return a value as a person reads it, on one line; nothing in it moves the cursor.

    Times are local and have their offset from UTC.
    """
    match value:
        case None | "":
            return _NOTHING
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().isoformat(" ", "seconds")
        case float():
            return f"{value:.3f}"
        case _:
            return sanitize_line(value)
