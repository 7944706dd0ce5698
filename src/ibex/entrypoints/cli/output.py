"""Tables for people, JSON for programs."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import rich_click as click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = dict[str, Any]
_NOTHING: Final = "-"
_WIDTH: Final = 400


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")(command)


def org_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--org``."""
    help_text = "Id or name; by default the folder's first organization, or the only one."
    return click.option("--org", envvar="IBEX_ORG", help=help_text)(command)


def show_rows(rows: Sequence[Row], *, as_json: bool, empty: str, columns: Mapping[str, str]) -> None:
    """Show many things: a table of the columns (name to heading), or JSON of everything."""
    if as_json:
        write_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - keeps --help quick
    from rich.table import Table  # noqa: PLC0415 - the same

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(shown(row[name]) for name in columns))
    # What is folded within a cell can be neither read nor copied: where the screen is narrow the terminal wraps lines.
    Console(file=sys.stdout, markup=False, highlight=False, width=_WIDTH).print(table)


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
    click.echo(msgspec.json.encode(value).decode())


def shown(value: Any) -> str:
    """Return a value as a person reads it: times are local."""
    match value:
        case None | "":
            return _NOTHING
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)
