"""The readiness checks, and which of them are critical."""

from __future__ import annotations

import pytest

from harness.memory.clock import ManualClock
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.http_server.readiness import Health, Readiness
from ibex.entrypoints.checks import PingCheck, auth_checks, readiness_checks


class Server:
    """A server that is up or down."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.is_up = is_up

    async def ping(self) -> None:
        """Raise if the server is down."""
        if not self.is_up:
            raise ConnectionError


def test_only_auth_is_critical() -> None:
    """The proxy can serve requests while PostgreSQL or Redis is down."""
    checks = readiness_checks(auth=Server(), redis=Server(), postgres=Server())
    assert {check.name: check.critical for check in checks} == {"auth": True, "redis": False, "postgres": False}


def test_no_check_of_auth_is_critical() -> None:
    """Auth stays in service without PostgreSQL: its answers allow proxies to serve cached tokens."""
    assert {check.name: check.critical for check in auth_checks(postgres=Server(), redis=Server())} == {
        "postgres": False,
        "redis": False,
    }


async def test_auth_without_postgresql_is_degraded() -> None:
    """It is not unhealthy. The report names PostgreSQL."""
    checks = auth_checks(postgres=Server(is_up=False), redis=Server())

    report = await Readiness(checks, Drain(), ManualClock()).report()

    assert report.status is Health.DEGRADED
    assert {name: result.status for name, result in report.checks.items()} == {"postgres": "failed", "redis": "ok"}


async def test_a_server_that_is_down_fails_its_check() -> None:
    """The check raises the error of the ping."""
    await PingCheck("auth", Server()).check()
    with pytest.raises(ConnectionError):
        await PingCheck("auth", Server(is_up=False)).check()
