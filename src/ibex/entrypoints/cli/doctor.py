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
    from ibex.entrypoints.settings import Settings

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
    from ibex.entrypoints.doctor_checks import Surroundings  # noqa: PLC0415 - the same

    with invocation.explaining():
        settings = invocation.settings()
    running, installation = invocation.home.running_address(), invocation.home.installation()
    around = Surroundings(
        start=_start(invocation, running),
        proxy=url or running or _chosen_address(invocation, settings),
        journal=Path(settings.journal_dir) if running is None else invocation.home.journal,
        log=invocation.home.log if running is not None else None,
        token=installation.agent_token if running is not None and installation is not None else None,
    )
    found = [*_of_the_settings(invocation), *asyncio.run(diagnose(invocation.examine(settings, around)))]
    failed = [finding for finding in found if finding.verdict is Verdict.FAILED]
    if as_json:
        show_one({"healthy": not failed, "findings": [asdict(finding) for finding in found]}, as_json=True)
    else:
        _show(found)
        click.echo(f"\n{_verdict(found)}")
    return EXIT_FAILED if failed else 0


def _chosen_address(invocation: Invocation, settings: Settings) -> str | None:
    """Return the address of the settings if they are about a proxy; None if they are about a folder where none runs.

    What answers at the default address then is another folder's.
    """
    environ = invocation.environ_with_dotenv()
    chosen = any(environ.get(name, "").strip() for name in ("IBEX_HOST", "IBEX_PORT"))
    if chosen or settings.database_url is not None or invocation.in_production:
        return f"http://{settings.host}:{settings.port}"
    return None


def _verdict(found: Sequence[Finding]) -> str:
    number = {verdict: sum(one.verdict.value == verdict for one in found) for verdict in ("failed", "advice")}
    if number["failed"]:
        return f"{number['failed']} of {len(found)} failed."
    return f"Nothing failed; there is advice on {number['advice']}." if number["advice"] else "Nothing is wrong."


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
        if finding.hint is not None and finding.hint != said_before:
            click.echo(f"{_MARGIN}→ {sanitize(finding.hint)}")
        said_before = finding.hint
