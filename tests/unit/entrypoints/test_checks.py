"""Which dependencies readiness asks, and which of them must be there."""

from __future__ import annotations

import pytest

from ibex.entrypoints.checks import PingCheck, readiness_checks


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


async def test_a_server_that_is_down_fails_its_check() -> None:
    """What the ping raises is the check's outcome."""
    await PingCheck("auth", Server()).check()
    with pytest.raises(ConnectionError):
        await PingCheck("auth", Server(is_up=False)).check()
