"""What readiness asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.http_server.readiness import ReadinessCheck


class Pingable(Protocol):
    """Something that can be asked for a sign of life."""

    async def ping(self) -> None:
        """Return if it answers, raise if it does not."""


@dataclass(frozen=True, slots=True)
class PingCheck:
    """A ``ReadinessCheck`` by ping."""

    name: str
    target: Pingable
    critical: bool = False

    async def check(self) -> None:
        """Ask."""
        await self.target.ping()


def readiness_checks(*, auth: Pingable, **advisory: Pingable) -> Sequence[ReadinessCheck]:
    """Return the proxy's checks: without auth nobody can be let in, without the others completions go on."""
    return (PingCheck("auth", auth, critical=True), *(PingCheck(name, target) for name, target in advisory.items()))


def auth_checks(*, postgres: Pingable, redis: Pingable) -> Sequence[ReadinessCheck]:
    """Return auth's checks. All are advisory: auth answers without PostgreSQL too, and proxies need that answer.

    It is on the word of auth that proxies serve cached identity during an outage of PostgreSQL (stale-if-error). An
    orchestrator that took auth out of service then would turn that into an outage of every proxy.
    """
    return (PingCheck("postgres", postgres), PingCheck("redis", redis))
