"""Which dependencies readiness asks, and which of them must be there."""

from __future__ import annotations

import pytest

from harness.memory.clock import ManualClock
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.http_server.readiness import Health, Readiness
from ibex.entrypoints.checks import PingCheck, auth_checks, readiness_checks


class Server:
    """Answers, or does not."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.is_up = is_up

    async def ping(self) -> None:
        """Raise if it is down."""
        if not self.is_up:
            raise ConnectionError


def test_only_identity_is_critical() -> None:
    """Completions go on without PostgreSQL's records and without ClickHouse."""
    checks = readiness_checks(auth=Server(), redis=Server(), postgres=Server())
    assert {check.name: check.critical for check in checks} == {"auth": True, "redis": False, "postgres": False}


def test_nothing_that_auth_needs_is_critical() -> None:
    """Auth that cannot reach PostgreSQL must stay in service: what it answers allows proxies to serve cached tokens."""
    assert {check.name: check.critical for check in auth_checks(postgres=Server(), redis=Server())} == {
        "postgres": False,
        "redis": False,
    }


async def test_auth_without_postgresql_is_ready_and_says_what_is_missing() -> None:
    """Degraded, not unhealthy."""
    checks = auth_checks(postgres=Server(is_up=False), redis=Server())

    report = await Readiness(checks, Drain(), ManualClock()).report()

    assert report.status is Health.DEGRADED
    assert {name: result.status for name, result in report.checks.items()} == {"postgres": "failed", "redis": "ok"}


async def test_a_server_that_is_down_fails_its_check() -> None:
    """What the ping raises is the check's outcome."""
    await PingCheck("auth", Server()).check()
    with pytest.raises(ConnectionError):
        await PingCheck("auth", Server(is_up=False)).check()
