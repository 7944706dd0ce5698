"""Metrics of a proxy's way to auth: connected replicas, and failed validations of agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ibex.adapters.telemetry.exposition import Merge
from ibex.domain.errors import RetryableError
from ibex.domain.freshness.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from ibex.adapters.telemetry.caches import CacheTelemetry
    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import Agent, AgentVerifier


class ConnectedReplica(Protocol):
    """A replica of auth, as a worker sees it."""

    is_connected: bool


class AuthReplicaTelemetry:
    """Exports how many replicas of auth a worker knows, and how many of them are connected."""

    def __init__(self, registry: Registry, replicas: Callable[[], Iterable[ConnectedReplica]]) -> None:
        self._replicas = replicas
        self._known = registry.gauges(
            "auth_replicas", "Replicas of auth that IBEX_AUTH_ADDRESS names or resolves to.", merge=Merge.MAX
        ).of()
        self._connected = registry.gauges(
            "auth_replicas_connected", "Connected replicas of auth, of the worker with the fewest.", merge=Merge.MIN
        ).of()
        registry.on_refresh(self._refresh)

    def _refresh(self) -> None:
        states = [replica.is_connected for replica in self._replicas()]
        self._known.set(len(states))
        self._connected.set(sum(states))


class InstrumentedAgentVerifier:
    """An ``AgentVerifier`` that counts failed calls."""

    def __init__(self, verifier: AgentVerifier, telemetry: CacheTelemetry) -> None:
        self._verifier = verifier
        self._telemetry = telemetry

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Verify an agent; see ``AgentVerifier``."""
        try:
            return await self._verifier.verify(org_id, agent_id)
        except RetryableError:
            self._telemetry.call_failed(Kind.AGENTS)
            raise
