"""``ibex doctor``: checks the settings and all dependencies, and prints a hint for each problem."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click

from ibex.entrypoints.cli.output import DotenvOption, json_option, show_one
from ibex.entrypoints.foreign_variables import without_kubernetes
from ibex.entrypoints.outcome import EXIT_FAILED
from ibex.entrypoints.setting_files import is_set
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
    help="The URL of the proxy. Default: the instance in the home folder, else the proxy at IBEX_HOST and IBEX_PORT, "
    "with IBEX_BASE_PATH.",
)
@json_option
@click.pass_obj
def doctor(invocation: Invocation, url: str | None, *, as_json: bool) -> int:
    """Check the settings and everything that IBEX depends on, and print how to fix each problem.

    The exit code is 1 if a check failed, and 2 if a setting is invalid.
    """
    from ibex.entrypoints.diagnosis import Verdict, diagnose  # noqa: PLC0415 - keeps --help quick
    from ibex.entrypoints.doctor_checks import DoctorContext  # noqa: PLC0415 - keeps --help quick

    with invocation.explaining_missing_settings():
        settings = invocation.settings()
    running, installation = invocation.home.running_address(), invocation.home.installation()
    context = DoctorContext(
        start=_start_hint(invocation, running),
        proxy=url or running or _chosen_address(invocation, settings),
        journal=Path(settings.journal_dir) if running is None else invocation.home.journal,
        log=invocation.home.log if running is not None else None,
        provider=invocation.home.running_provider(),
        token=installation.agent_token if running is not None and installation is not None else None,
    )
    found = [
        *_settings_findings(invocation, settings),
        *asyncio.run(diagnose(invocation.doctor_checks(settings, context))),
    ]
    failed = [finding for finding in found if finding.verdict is Verdict.FAILED]
    if as_json:
        show_one({"healthy": not failed, "findings": [asdict(finding) for finding in found]}, as_json=True)
    else:
        _show(found)
        click.echo(f"\n{_conclusion(found)}")
    return EXIT_FAILED if failed else 0


def _chosen_address(invocation: Invocation, settings: Settings) -> str | None:
    """Return the URL at which the settings expect a proxy; None if they do not configure one.

    In that case, a proxy at the default address belongs to another home folder.
    """
    environ = invocation.environ_with_dotenv()
    ours = without_kubernetes(environ)
    is_configured = any(is_set(ours, name) for name in ("IBEX_HOST", "IBEX_PORT"))
    if is_configured or settings.database_url is not None or invocation.in_production:
        return f"http://{settings.host}:{settings.port}{settings.base_path}"
    return None


def _conclusion(found: Sequence[Finding]) -> str:
    number = {verdict: sum(one.verdict.value == verdict for one in found) for verdict in ("failed", "advice")}
    if number["failed"]:
        return f"{number['failed']} of {len(found)} checks failed."
    return f"No check failed. {number['advice']} gave advice." if number["advice"] else "Nothing is wrong."


def _start_hint(invocation: Invocation, running: str | None) -> str:
    if running is not None:
        return f"See {invocation.home.log} for the reason."
    if invocation.in_production:  # `ibex dev` does not apply there
        return "Production reads settings only from the environment. Start a proxy with `ibex serve`."
    return invocation.no_instance()


def _settings_findings(invocation: Invocation, settings: Settings) -> Sequence[Finding]:
    """Return findings about variables that look like settings but have no effect."""
    from ibex.entrypoints.diagnosis import Finding, Verdict  # noqa: PLC0415 - keeps --help quick
    from ibex.entrypoints.start_warnings import ignored_in_environment  # noqa: PLC0415 - keeps --help quick

    ignored = ignored_in_environment(settings, invocation.environ_with_dotenv())
    messages = [*invocation.unknown_settings(), *filter(None, [invocation.ignored_dotenv()]), *ignored]
    return [Finding("settings", Verdict.ADVICE, message, None, 0.0) for message in messages]


def _show(found: Sequence[Finding]) -> None:
    width = max((len(finding.name) for finding in found), default=0)
    previous_hint = None
    for finding in found:
        verdict = click.style(f"{finding.verdict.value:<6}", fg=_COLOURS[finding.verdict.value])
        click.echo(f"{verdict}  {finding.name:<{width}}  {sanitize(finding.message)}")
        if finding.hint is not None and finding.hint != previous_hint:
            click.echo(f"{_MARGIN}→ {sanitize(finding.hint)}")
        previous_hint = finding.hint
