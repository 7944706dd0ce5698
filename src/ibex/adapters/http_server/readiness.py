"""The readiness of this process for requests: checks of its dependencies, each with a time limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.http_server.drain import Drain
    from ibex.domain.clock import Clock

CHECK_TIMEOUT_S: Final = 0.5
ALL_CHECKS_TIMEOUT_S: Final = 0.75


class ReadinessCheck(Protocol):
    """Port: asks one dependency whether it is there."""

    @property
    def name(self) -> str:
        """The name of the check in the report."""

    @property
    def critical(self) -> bool:
        """Whether no request can be served without it."""

    async def check(self) -> None:
        """Return if it is there, raise anything if not. May take its time: it is cancelled when that is over."""


class Health(StrEnum):
    """The sum of all checks: ``degraded`` is ready, with something advisory missing."""

    OK = "ok"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. ``status`` is ok, failed or timeout; the reason of a failure is only logged."""

    status: str
    critical: bool
    latency_ms: float


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """The result of all checks."""

    status: Health
    checks: dict[str, CheckResult]


class Readiness:
    """Runs all checks at once. Concurrent requests share one run, because anybody may call the route."""

    def __init__(
        self,
        checks: Sequence[ReadinessCheck],
        drain: Drain,
        clock: Clock,
        *,
        check_timeout_s: float = CHECK_TIMEOUT_S,
        all_checks_timeout_s: float = ALL_CHECKS_TIMEOUT_S,
    ) -> None:
        self._checks = tuple(checks)
        self._drain = drain
        self._clock = clock
        self._check_timeout_s = check_timeout_s
        self._all_checks_timeout_s = all_checks_timeout_s
        self._asking: asyncio.Task[ReadinessReport] | None = None

    async def report(self) -> ReadinessReport:
        """Return the report. Once a drain has begun it is unhealthy, without asking anybody."""
        if self._drain.begun:
            return ReadinessReport(Health.UNHEALTHY, {"drain": CheckResult("failed", critical=True, latency_ms=0.0)})
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> ReadinessReport:
        started_ns = self._clock.monotonic_ns()
        tasks = [asyncio.create_task(self._result(check)) for check in self._checks]
        if tasks:
            await asyncio.wait(tasks, timeout=self._all_checks_timeout_s)
        results = {}
        for check, task in zip(self._checks, tasks, strict=True):
            if task.done():
                results[check.name] = task.result()
            else:  # it does not let itself be cancelled; nobody waits for it
                results[check.name] = CheckResult("timeout", check.critical, self._since_ms(started_ns))
        failed = [result for result in results.values() if result.status != "ok"]
        status = Health.DEGRADED if failed else Health.OK
        return ReadinessReport(Health.UNHEALTHY if any(r.critical for r in failed) else status, results)

    async def _result(self, check: ReadinessCheck) -> CheckResult:
        started_ns = self._clock.monotonic_ns()
        status = "ok"
        try:
            async with asyncio.timeout(self._check_timeout_s):
                await check.check()
        except TimeoutError:
            status = "timeout"
        except Exception:  # noqa: BLE001 - whatever it raises, it is not there
            status = "failed"
        return CheckResult(status, check.critical, self._since_ms(started_ns))

    def _since_ms(self, started_ns: int) -> float:
        return (self._clock.monotonic_ns() - started_ns) // 1_000 / 1_000
