"""The readiness checks of the proxy and of the auth service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.adapters.http_server.readiness import ReadinessCheck


class Pingable(Protocol):
    """A dependency with a ping."""

    async def ping(self) -> None:
        """Return if the dependency is available, otherwise raise."""


@dataclass(frozen=True, slots=True)
class PingCheck:
    """A ``ReadinessCheck`` that pings a dependency."""

    name: str
    target: Pingable
    critical: bool = False

    async def check(self) -> None:
        """Ping the dependency; see ``ReadinessCheck``."""
        await self.target.ping()


@dataclass(frozen=True, slots=True)
class Journals:
    """The process's own journal, and the orphaned ones: both must be usable."""

    own: Pingable
    orphaned: Pingable

    async def ping(self) -> None:
        """Return if both are usable, otherwise raise."""
        await self.own.ping()
        await self.orphaned.ping()


def readiness_checks(*, auth: Pingable, **advisory: Pingable) -> Sequence[ReadinessCheck]:
    """Return the proxy's checks. Only auth is critical; requests can be served without the others."""
    return (PingCheck("auth", auth, critical=True), *(PingCheck(name, target) for name, target in advisory.items()))


def auth_checks(*, postgres: Pingable, redis: Pingable) -> Sequence[ReadinessCheck]:
    """Return auth's checks. All are advisory: auth also answers without PostgreSQL, and proxies need that answer.

    Proxies serve cached identities during an outage of PostgreSQL only if auth confirms the outage (stale-if-error). An
    orchestrator that then took auth out of service would cause an outage of every proxy.
    """
    return (PingCheck("postgres", postgres), PingCheck("redis", redis))
