"""``ibex journal``: list the journals on disk, and deliver them without a proxy."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click
from click.exceptions import Exit

from ibex.entrypoints.cli.output import Row, json_option, show_rows
from ibex.entrypoints.outcome import EXIT_FAILED

if TYPE_CHECKING:
    from ibex.domain.record.journal import Sink
    from ibex.entrypoints.cli.invocation import Invocation

_COLUMNS: Final = {
    "path": "journal",
    "state": "state",
    "process": "pid",
    "checkpoints": "checkpoints",
    "traces": "traces",
    "in_flight": "in flight",
    "oldest": "oldest",
    "size_bytes": "bytes",
    "dead_letters": "dead letters",
    "format": "format",
    "reason": "reason",
}
_REPLAY_COLUMNS: Final = {
    "path": "journal",
    "delivered": "delivered",
    "refused": "refused",
    "unavailable": "unavailable",
    "unreadable": "unreadable",
    "reason": "reason",
}


@click.group()
def journal() -> None:
    """Show the journals in IBEX_JOURNAL_DIR, and deliver what processes have left in them."""


@journal.command("list")
@json_option
@click.pass_obj
def list_journals(invocation: Invocation, *, as_json: bool) -> None:
    """List all journals: the process of each, and what each database lacks."""
    root = Path(invocation.settings().journal_dir)
    show_rows(_rows(root), as_json=as_json, empty=f"There is no journal in {root}.", columns=_COLUMNS)


@journal.command("drain")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="The time limit, in seconds.",
)
@json_option
@click.pass_obj
def drain_journals(invocation: Invocation, timeout_s: float, *, as_json: bool) -> None:
    """Deliver the journals whose processes have ended, and list what is left.

    The exit code is 0 if nothing is left in them, and 1 if something is. Journals of running processes are not touched.
    """
    from ibex.adapters.journal.inspection import JournalState  # noqa: PLC0415 - keeps --help quick
    from ibex.entrypoints.journals import drain, opened_sinks  # noqa: PLC0415 - keeps --help quick

    settings = invocation.settings()
    root = Path(settings.journal_dir)

    async def run() -> bool:
        async with opened_sinks(settings) as sinks:
            return await drain(root, sinks, _Failures(), timeout_s)

    with invocation.explaining_missing_settings():
        is_drained = asyncio.run(run())
    rows = [row for row in _rows(root) if row["state"] != JournalState.IN_USE and not _is_delivered(row)]
    show_rows(rows, as_json=as_json, empty="All journals without a process are empty.", columns=_COLUMNS)
    if rows or not is_drained:
        raise Exit(EXIT_FAILED)


@journal.command("replay")
@json_option
@click.pass_obj
def replay_dead_letters(invocation: Invocation, *, as_json: bool) -> None:
    """Deliver dead letters again, after the cause of the refusals is repaired. The databases store none of them twice.

    The exit code is 0 if no dead letter is left, and 1 if one is. Proxies can go on running.
    """
    from ibex.entrypoints.journals import Replayed, opened_sinks, replay  # noqa: PLC0415 - keeps --help quick

    settings = invocation.settings()

    async def run() -> list[Replayed]:
        async with opened_sinks(settings) as sinks:
            return list(await replay(Path(settings.journal_dir), sinks))

    with invocation.explaining_missing_settings():
        outcomes = asyncio.run(run())
    rows = [asdict(outcome) for outcome in outcomes]
    show_rows(rows, as_json=as_json, empty="There are no dead letters.", columns=_REPLAY_COLUMNS)
    if any(outcome.refused or outcome.unavailable or outcome.unreadable for outcome in outcomes):
        raise Exit(EXIT_FAILED)


def _rows(root: Path) -> list[Row]:
    from ibex.adapters.journal.inspection import journal_reports  # noqa: PLC0415 - keeps --help quick

    return [asdict(report) for report in journal_reports(root)]


def _is_delivered(row: Row) -> bool:
    return row["reason"] is None and not (row["checkpoints"] or row["traces"] or row["in_flight"])


class _Failures:
    """A ``DeliveryObserver`` that prints each different failure once."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Print nothing."""

    def failed(self, sink: Sink, rows: int, reason: str) -> None:  # noqa: ARG002 - a DeliveryObserver's
        """Print the reason, unless it was printed before."""
        self._print(f"{sink.value} cannot be delivered now: {reason}")

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """Print the reason, unless it was printed before."""
        self._print(f"a row of {sink.value} was refused for good and is now a dead letter: {reason}")

    def _print(self, message: str) -> None:
        if message not in self._printed:
            self._printed.add(message)
            click.echo(message, err=True)
