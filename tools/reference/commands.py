"""The page about the command line. Commands, options and their help come from the commands themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import rich_click as click
from tools.reference.markdown import code, table

from ibex.entrypoints.cli.main import cli
from ibex.entrypoints.settings_reference import COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION: Final = """\
# Command line

`ibex` is `.venv/bin/ibex` after `make run` or `make install`. Every command and group has `--help`.

* Commands use the instance that runs in the home folder (`.ibex`), else the servers that the
  [settings](../configuration.md) name.
* `--json` prints one JSON document, with times in UTC. Without it, times are local.
* `--org` takes an id or a name.
* The exit code is 0 for success, 1 for a failure and 2 for invalid usage or settings. `ibex migrate --check` exits
  with 3 if migrations are pending.

This page is generated from the commands.
"""
_VARIABLES: Final = "Commands read these variables, each in place of an option:"


def page() -> str:
    """Return the text of the page."""
    lines = [_INTRODUCTION, "## All commands", ""]
    found = list(_commands(cli, ["ibex"]))
    lines += table(("command", "what it does"), [(_link(path), _first_sentence(one)) for path, one in found])
    lines += ["", _VARIABLES, "", *(f"* `{name}`: {meaning}" for name, meaning in COMMAND_LINE.items())]
    lines += ["", "## Options of every command", "", *_parameters(cli, ["ibex"])]
    for path, command in found:
        lines += ["", f"## {' '.join(path)}", "", _help(command)]
        lines += ["", f"    {_usage(command, path)}", "", *_parameters(command, path)]
    return "\n".join([*lines, ""])


def _commands(group: click.Group, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    """Yield each command that does something, with its words, in the order of the help."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, [*path, name])
        else:
            yield [*path, name], command


def _context(command: click.Command, path: list[str]) -> click.Context:
    return click.Context(command, info_name=" ".join(path), **cli.context_settings)


def _usage(command: click.Command, path: list[str]) -> str:
    return " ".join([*path, *command.collect_usage_pieces(_context(command, path))])


def _link(path: list[str]) -> str:
    return f"[`{' '.join(path)}`](#{'-'.join(path)})"


def _first_sentence(command: click.Command) -> str:
    return _help(command).partition(". ")[0].rstrip(".")


def _help(command: click.Command) -> str:
    """Return the help of a command on one line. Markdown would take a word in angle brackets for HTML."""
    return " ".join((command.help or "").split()).replace("<", "&lt;")


def _parameters(command: click.Command, path: list[str]) -> list[str]:
    context = _context(command, path)
    records = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
    rows = [(code(names), text.replace("<", "&lt;")) for names, text in filter(None, records)]
    return table(("option", "meaning"), rows) if rows else ["It has no options."]
