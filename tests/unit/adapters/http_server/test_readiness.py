"""Tests of readiness: the effect of failed checks, time limits, and the sharing of concurrent reports."""

from __future__ import annotations

import asyncio

import pytest

from harness.http_scene import ScriptedCheck
from harness.memory.clock import ManualClock
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.http_server.readiness import Health, Readiness


def readiness_of(*checks: ScriptedCheck, drain: Drain | None = None, timeout_s: float = 5.0) -> Readiness:
    """Return the readiness of these checks."""
    return Readiness(
        checks, drain or Drain(), ManualClock(), check_timeout_s=timeout_s, all_checks_timeout_s=2 * timeout_s
    )


@pytest.mark.parametrize(
    ("critical_fails", "advisory_fails", "expected"),
    [
        (False, False, Health.OK),
        (False, True, Health.DEGRADED),
        (True, False, Health.UNHEALTHY),
        (True, True, Health.UNHEALTHY),
    ],
)
async def test_a_failed_critical_check_is_unhealthy_and_a_failed_advisory_one_is_degraded(
    *, critical_fails: bool, advisory_fails: bool, expected: Health
) -> None:
    """The report contains the status of each check, but no text of an exception."""
    critical = ScriptedCheck("auth", critical=True, failure=OSError("secret") if critical_fails else None)
    advisory = ScriptedCheck("traces", failure=OSError("secret") if advisory_fails else None)

    report = await readiness_of(critical, advisory).report()

    assert report.status is expected
    assert {name: result.status for name, result in report.checks.items()} == {
        "auth": "failed" if critical_fails else "ok",
        "traces": "failed" if advisory_fails else "ok",
    }
    assert "secret" not in repr(report)


async def test_a_process_without_checks_is_ready() -> None:
    """A process may have no dependencies."""
    assert (await readiness_of().report()).status is Health.OK


async def test_a_check_that_hangs_times_out() -> None:
    """It counts as failed and does not delay the other checks."""
    hanging = ScriptedCheck("auth", critical=True, hold=asyncio.Event())

    report = await readiness_of(hanging, ScriptedCheck("traces"), timeout_s=0.01).report()

    assert report.status is Health.UNHEALTHY
    assert (report.checks["auth"].status, report.checks["traces"].status) == ("timeout", "ok")


async def test_a_check_that_ignores_its_cancellation_does_not_delay_the_report() -> None:
    """The report has a time limit of its own, which does not depend on the checks."""
    let_go = asyncio.Event()

    class Stubborn(ScriptedCheck):
        async def check(self) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

    report = await readiness_of(Stubborn("traces"), timeout_s=0.01).report()

    assert report.status is Health.DEGRADED
    assert report.checks["traces"].status == "timeout"
    let_go.set()


async def test_concurrent_reports_share_one_run_of_the_checks() -> None:
    """Many concurrent probes check each dependency once. A later probe checks it again."""
    check = ScriptedCheck("auth", critical=True)
    ready = readiness_of(check)

    reports = await asyncio.gather(*(ready.report() for _ in range(20)))

    assert check.asked == 1
    assert all(report is reports[0] for report in reports)
    await ready.report()
    assert check.asked == 2


async def test_a_draining_process_is_unhealthy_without_running_its_checks() -> None:
    """The state of the dependencies does not matter during a drain."""
    check = ScriptedCheck("auth", critical=True)
    drain = Drain()
    drain.begin()

    report = await readiness_of(check, drain=drain).report()

    assert report.status is Health.UNHEALTHY
    assert check.asked == 0
