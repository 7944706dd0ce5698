"""Commands for the directive of an agent: set, show, compare, roll back and deactivate."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from typing import TYPE_CHECKING, Final, TypeVar

import rich_click as click

from ibex.domain.directives.diff import NO_NEWLINE, Basis
from ibex.domain.directives.management import NoDirectiveError
from ibex.domain.directives.model import MAX_TEXT_BYTES, InjectionMode
from ibex.domain.errors import NotFoundError
from ibex.entrypoints.cli.output import Row, display, json_option, org_option, show_one, show_rows
from ibex.entrypoints.untrusted_text import sanitize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from io import TextIOWrapper
    from typing import TextIO
    from uuid import UUID

    from ibex.domain.directives.diff import DirectiveDiff
    from ibex.domain.directives.management import DirectiveState, DirectiveVersion, ManageDirectives
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

T = TypeVar("T")
_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}
_HISTORY_COLUMNS: Final = {
    "number": "version",
    "in_force": "in force",
    "receipt": "receipt",
    "mode": "mode",
    "bytes": "bytes",
    "author": "author",
    "created_at": "created",
}
_COMPARED: Final = {
    Basis.IN_FORCE_BEFORE: "Comparing {before}, which was in force before, with {after}, which is in force now.",
    Basis.NUMBER_BEFORE: "Comparing {before} with {after}. The version in force before {after} is not recorded.",
}


@click.group()
def directive() -> None:
    """Manage directives, the instructions that IBEX adds to the requests of an agent."""


@directive.command("set")
@click.argument("agent")
@click.argument("text", required=False)
@click.option("--file", type=click.File(encoding="utf-8"), help="Read the text from a file; - is standard input.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in InjectionMode]),
    help="Where the text is injected. Default: the current mode.",
)
@click.option("--author", help="The author of this version. Default: the current user of the system.")
@org_option
@json_option
@click.pass_obj
def set_directive(  # noqa: PLR0913 - one argument for each option
    invocation: Invocation,
    agent: str,
    text: str | None,
    file: TextIOWrapper | None,
    mode: str | None,
    author: str | None,
    org: str | None,
    *,
    as_json: bool,
) -> None:
    """Set the directive of an agent to a new version, which applies from the next request on.

    A version is a text and its mode. If both are in force already, no version is created.
    """
    if (text is None) == (file is None):
        raise click.UsageError("Give the text either as an argument or with --file.")
    content = _read(file or sys.stdin) if text is None or text == "-" else text
    chosen = InjectionMode(mode) if mode else None

    async def change(directives: ManageDirectives, org_id: UUID, agent_id: UUID) -> DirectiveState:
        return await directives.set(org_id, agent_id, content, author=author or _current_user(), mode=chosen)

    _change(invocation, agent, org, change, as_json=as_json)


@directive.command("show")
@click.argument("agent")
@org_option
@json_option
@click.pass_obj
def show_directive(invocation: Invocation, agent: str, org: str | None, *, as_json: bool) -> None:
    """Show the current directive of an agent, with its text."""
    state = _run(invocation, agent, org, lambda directives, org_id, agent_id: directives.show(org_id, agent_id))
    if as_json:
        show_one({**_state_row(state), "text": state.version.text}, as_json=True)
        return
    show_one(_state_row(state), as_json=False)
    click.echo(f"\n{sanitize(state.version.text)}")


@directive.command("history")
@click.argument("agent")
@org_option
@json_option
@click.pass_obj
def history(invocation: Invocation, agent: str, org: str | None, *, as_json: bool) -> None:
    """List all versions, newest first, and mark the one in force."""

    async def work(
        directives: ManageDirectives, org_id: UUID, agent_id: UUID
    ) -> tuple[Sequence[DirectiveVersion], DirectiveState | None]:
        versions = await directives.history(org_id, agent_id)
        return versions, await directives.show(org_id, agent_id) if versions else None

    versions, state = _run(invocation, agent, org, work)
    rows = [_history_row(version, state, as_json=as_json) for version in versions]
    show_rows(rows, as_json=as_json, empty=_no_directive(agent), columns=_HISTORY_COLUMNS, spare=("receipt",))


@directive.command("diff")
@click.argument("agent")
@click.argument("before", type=click.IntRange(min=1), required=False)
@click.argument("after", type=click.IntRange(min=1), required=False)
@org_option
@json_option
@click.pass_obj
def diff(
    invocation: Invocation, agent: str, before: int | None, after: int | None, org: str | None, *, as_json: bool
) -> None:
    """Compare version BEFORE with AFTER. AFTER defaults to the version in force, BEFORE to the one before it."""
    found = _run(invocation, agent, org, lambda d, org_id, agent_id: d.diff(org_id, agent_id, before, after))
    if as_json:
        sides = {"before": found.before and _version_row(found.before), "after": _version_row(found.after)}
        counted = {"added": found.added, "removed": found.removed}
        show_one({**sides, "basis": found.basis.value, **counted, "lines": list(found.lines)}, as_json=True)
        return
    if found.basis in _COMPARED:
        version = f"version {found.after.number}"
        if found.before is None:
            click.echo(f"{version.capitalize()} is the first one:")
        else:
            click.echo(_COMPARED[found.basis].format(before=f"version {found.before.number}", after=version))
    colour = False if invocation.environ.get("NO_COLOR") else None  # None: on a terminal
    for sign, side in (("---", found.before), ("+++", found.after)):
        if side is not None:
            click.secho(f"{sign} {_side(side)}", bold=True, color=colour)
    for line in _shown_lines(found):
        click.secho(sanitize(line), fg=_COLOURS.get(line[0]), color=colour)
    if not found.lines:
        click.echo("The texts are equal.")


@directive.command("rollback")
@click.argument("agent")
@click.argument("number", type=click.IntRange(min=1))
@org_option
@json_option
@click.pass_obj
def rollback(invocation: Invocation, agent: str, number: int, org: str | None, *, as_json: bool) -> None:
    """Restore the text and the mode of an earlier version."""

    async def change(directives: ManageDirectives, org_id: UUID, agent_id: UUID) -> DirectiveState:
        return await directives.rollback(org_id, agent_id, number)

    _change(invocation, agent, org, change, as_json=as_json)


@directive.command("deactivate")
@click.argument("agent")
@org_option
@json_option
@click.pass_obj
def deactivate(invocation: Invocation, agent: str, org: str | None, *, as_json: bool) -> None:
    """Stop injecting the directive until a version is set or restored."""
    _change(invocation, agent, org, lambda d, org_id, agent_id: d.deactivate(org_id, agent_id), as_json=as_json)


def _current_user() -> str:
    """Return the user's name; a number if the system has no name for the user, as in a container with any user id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13, OSError since
        return f"uid {os.getuid()}"


def _read(file: TextIO) -> str:
    """Return the text of a file. Raises ``click.UsageError`` if it is not UTF-8 or too long, even if it is endless."""
    try:
        text = file.read(MAX_TEXT_BYTES + 1)
    except UnicodeDecodeError:
        raise click.UsageError(f"{file.name} is not valid UTF-8. A directive is a UTF-8 text file.") from None
    if len(text) > MAX_TEXT_BYTES:
        raise click.UsageError(f"{file.name} is too long. A directive has 1 to {MAX_TEXT_BYTES:,} bytes.")
    return text


def _run(
    invocation: Invocation,
    agent: str,
    org: str | None,
    work: Callable[[ManageDirectives, UUID, UUID], Awaitable[T]],
) -> T:
    async def run(use_cases: Administration) -> T:
        organization = await invocation.organization(use_cases, org)
        found = await invocation.agent(use_cases, organization, agent)
        try:
            return await work(use_cases.directives, organization.id, found.id)
        except NoDirectiveError:
            raise NotFoundError(_no_directive(found.name)) from None

    return invocation.administer(run)


def _change(
    invocation: Invocation,
    agent: str,
    org: str | None,
    work: Callable[[ManageDirectives, UUID, UUID], Awaitable[DirectiveState]],
    *,
    as_json: bool,
) -> None:
    """Change the directive, and print what has changed and the new state, without the text."""

    async def change(
        directives: ManageDirectives, org_id: UUID, agent_id: UUID
    ) -> tuple[DirectiveState | None, DirectiveState]:
        try:
            before = await directives.show(org_id, agent_id)
        except NoDirectiveError:
            before = None
        return before, await work(directives, org_id, agent_id)

    before, after = _run(invocation, agent, org, change)
    if not as_json:
        click.echo(f"{_changed(agent, before, after)}\n")
    show_one(_state_row(after), as_json=as_json)


def _changed(agent: str, before: DirectiveState | None, after: DirectiveState) -> str:
    """Return what a change has changed, in one line."""
    now = _in_force(after)
    if before is not None and (before.is_active, before.version.id) == (after.is_active, after.version.id):
        state = f"Version {now} is in force already" if after.is_active else "The directive is inactive already"
        return f"{state}; nothing was changed."
    state = f"version {now} is in force" if after.is_active else "no directive is in force"
    return f"{agent}: {state} (before: {_in_force(before)})."


def _in_force(state: DirectiveState | None) -> str:
    return _version_row(state.version)["receipt"] if state is not None and state.is_active else "none"


def _no_directive(agent: str) -> str:
    return f"The agent {agent!r} has no directive. Set one with `ibex directive set {shlex.quote(agent)} TEXT`."


def _shown_lines(found: DirectiveDiff[DirectiveVersion]) -> Sequence[str]:
    """Return the lines to print. Whether a text ends with a newline is only shown if the other one differs in it."""
    ends = {version.text.endswith("\n") for version in (found.before, found.after) if version is not None}
    return found.lines if len(ends) > 1 else [line for line in found.lines if line != NO_NEWLINE]


def _side(version: DirectiveVersion) -> str:
    row = _version_row(version)
    mode = f" ({row['mode']})" if row["mode"] else ""
    return f"version {row['receipt']}{mode} of {display(row['created_at'])} by {display(row['author'])}"


def _state_row(state: DirectiveState) -> Row:
    return {
        "agent_id": str(state.agent_id),
        "is_active": state.is_active,
        "changed_at": state.changed_at,
        "previous": state.previous_number,
        **_version_row(state.version),
        "mode": state.mode.value,
    }


def _history_row(version: DirectiveVersion, state: DirectiveState | None, *, as_json: bool) -> Row:
    row = _version_row(version)
    latest = state if state is not None and state.version.number == version.number else None
    in_force = latest is not None and latest.is_active
    since = latest.changed_at if latest is not None else None
    if as_json:
        return {**row, "in_force": in_force, "in_force_since": since if in_force else None}
    return {**row, "in_force": since and f"{'since' if in_force else 'off since'} {display(since)}"}


def _version_row(version: DirectiveVersion) -> Row:
    return {
        "number": version.number,
        "receipt": f"{version.number}@{version.sha256[:8]}",
        "mode": version.mode.value if version.mode else None,
        "sha256": version.sha256,
        "bytes": len(version.text.encode()),
        "author": version.author,
        "created_at": version.created_at,
    }
