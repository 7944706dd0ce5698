"""Readiness is found out within a bound and never by asking too much."""

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
async def test_what_fails_decides(*, critical_fails: bool, advisory_fails: bool, expected: Health) -> None:
    """Advisory checks degrade, critical ones make unhealthy."""
    critical = ScriptedCheck("auth", critical=True, failure=OSError("secret") if critical_fails else None)
    advisory = ScriptedCheck("traces", failure=OSError("secret") if advisory_fails else None)

    report = await readiness_of(critical, advisory).report()

    assert report.status is expected
    assert {name: result.status for name, result in report.checks.items()} == {
        "auth": "failed" if critical_fails else "ok",
        "traces": "failed" if advisory_fails else "ok",
    }
    assert "secret" not in repr(report)


async def test_nothing_to_check_is_fine() -> None:
    """A process without dependencies is ready."""
    assert (await readiness_of().report()).status is Health.OK


async def test_a_check_that_hangs_is_given_up() -> None:
    """It counts as failed, and the others do not wait for it."""
    hanging = ScriptedCheck("auth", critical=True, hold=asyncio.Event())

    report = await readiness_of(hanging, ScriptedCheck("traces"), timeout_s=0.01).report()

    assert report.status is Health.UNHEALTHY
    assert (report.checks["auth"].status, report.checks["traces"].status) == ("timeout", "ok")


async def test_a_check_that_cannot_be_cancelled_holds_nobody_up() -> None:
    """The bound over all checks holds whatever they do."""
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


async def test_who_asks_at_the_same_time_shares_the_answer() -> None:
    """A flood of probes asks each dependency once; the next one asks anew."""
    check = ScriptedCheck("auth", critical=True)
    ready = readiness_of(check)

    reports = await asyncio.gather(*(ready.report() for _ in range(20)))

    assert check.asked == 1
    assert all(report is reports[0] for report in reports)
    await ready.report()
    assert check.asked == 2


async def test_a_drain_is_unhealthy_without_asking() -> None:
    """At once, whatever the dependencies would say."""
    check = ScriptedCheck("auth", critical=True)
    drain = Drain()
    drain.begin()

    report = await readiness_of(check, drain=drain).report()

    assert report.status is Health.UNHEALTHY
    assert check.asked == 0
