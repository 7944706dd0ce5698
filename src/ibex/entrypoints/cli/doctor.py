"""``ibex doctor``: what does not work, and what to do."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.entrypoints.cli.output import DotenvOption, json_option, show_one
from ibex.entrypoints.outcome import EXIT_FAILED
from ibex.entrypoints.untrusted_text import sanitize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.entrypoints.cli.invocation import Invocation
    from ibex.entrypoints.diagnosis import Finding

_COLOURS: Final = {"ok": "green", "advice": "yellow", "absent": None, "failed": "red"}
_MARGIN: Final = " " * 8


@click.command()
@click.option(
    "--url",
    cls=DotenvOption,
    envvar="IBEX_URL",
    help="The proxy's address; by default what runs on the folder, or else what IBEX_HOST and IBEX_PORT say.",
)
@json_option
@click.pass_obj
def doctor(invocation: Invocation, url: str | None, *, as_json: bool) -> int:
    """Look at the settings and at everything that IBEX depends on, and say what to do.

    Exit code 1 if something does not work, 2 if a setting is wrong.
    """
    from ibex.entrypoints.diagnosis import Verdict, diagnose  # noqa: PLC0415 - keeps --help quick
    from ibex.entrypoints.examinations import Surroundings  # noqa: PLC0415 - the same

    with invocation.explaining():
        settings = invocation.settings()
    running = invocation.home.running_address()
    around = Surroundings(
        start=_start(invocation, running),
        proxy=url or running,
        journal=Path(settings.journal_dir) if running is None else invocation.home.journal,
    )
    found = [*_of_the_settings(invocation), *asyncio.run(diagnose(invocation.examine(settings, around)))]
    failed = [finding for finding in found if finding.verdict is Verdict.FAILED]
    if as_json:
        show_one({"healthy": not failed, "findings": [asdict(finding) for finding in found]}, as_json=True)
    else:
        _show(found)
        click.echo(f"\n{len(failed)} of {len(found)} failed." if failed else "\nNothing is wrong.")
    return EXIT_FAILED if failed else 0


def _start(invocation: Invocation, running: str | None) -> str:
    if running is not None:
        return f"What runs on {invocation.home.path} may say why."
    if invocation.in_production:  # `ibex dev` is no way out there
        return "Production takes its settings from the environment alone; `ibex serve` starts a proxy."
    return invocation.nothing_runs()


def _of_the_settings(invocation: Invocation) -> Sequence[Finding]:
    """Return what is taken for a setting and is not read: nothing else would tell of it."""
    from ibex.entrypoints.diagnosis import Finding, Verdict  # noqa: PLC0415 - keeps --help quick

    said = [*invocation.no_settings(), *filter(None, [invocation.unread()])]
    return [Finding("settings", Verdict.ADVICE, line, None, 0.0) for line in said]


def _show(found: Sequence[Finding]) -> None:
    width = max((len(finding.name) for finding in found), default=0)
    said_before = None
    for finding in found:
        verdict = click.style(f"{finding.verdict.value:<6}", fg=_COLOURS[finding.verdict.value])
        click.echo(f"{verdict}  {finding.name:<{width}}  {sanitize(finding.said)}")
        if finding.remedy is not None and finding.remedy != said_before:
            click.echo(f"{_MARGIN}→ {sanitize(finding.remedy)}")
        said_before = finding.remedy
