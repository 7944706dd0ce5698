"""Tests of the metrics of a proxy's way to auth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from harness.chat_scene import AGENT, ORG, TOKEN, ScriptedTokens, principal
from ibex.adapters.telemetry.caches import CacheTelemetry, InstrumentedTokenVerifier
from ibex.adapters.telemetry.calls_to_auth import AuthReplicaTelemetry, InstrumentedAgentVerifier
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AuthUnavailableError,
    InvalidTokenError,
    ServiceDegradedError,
)

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import Agent


@dataclass(slots=True)
class _Replica:
    is_connected: bool


class _Agents:
    """An ``AgentVerifier`` that raises its errors, one after the other."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = iter(errors)

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Raise the next error, for the agent of this scene only."""
        assert (org_id, agent_id) == (ORG, AGENT)
        raise next(self._errors)


def _lines(registry: Registry, name: str) -> list[str]:
    return [line for line in registry.render()[0].decode().splitlines() if line.startswith(name)]


def test_known_and_connected_replicas_are_exported() -> None:
    """The replicas are read at every rendering, because their number can change."""
    replicas = [_Replica(is_connected=True), _Replica(is_connected=False)]
    registry = Registry("ibex_proxy_")
    AuthReplicaTelemetry(registry, lambda: replicas)
    assert _lines(registry, "ibex_proxy_auth_replicas") == [
        "ibex_proxy_auth_replicas 2.0",
        "ibex_proxy_auth_replicas_connected 1.0",
    ]

    replicas[1].is_connected = True
    replicas.append(_Replica(is_connected=True))

    assert _lines(registry, "ibex_proxy_auth_replicas_connected") == ["ibex_proxy_auth_replicas_connected 3.0"]


async def test_validations_without_a_decision_are_counted_by_kind() -> None:
    """A refused token or agent is a decision. Both counters exist from the start."""
    registry = Registry("ibex_proxy_")
    telemetry = CacheTelemetry(registry)
    assert [line.rpartition(" ")[2] for line in _lines(registry, "ibex_proxy_auth_calls_failed")] == ["0.0", "0.0"]
    agents = InstrumentedAgentVerifier(_Agents(AgentNotAuthorizedError(), AuthUnavailableError()), telemetry)

    for answer in (InvalidTokenError(), ServiceDegradedError(), ServiceDegradedError()):
        with pytest.raises(type(answer)):
            await InstrumentedTokenVerifier(ScriptedTokens(answer), telemetry).verify(TOKEN)
    await InstrumentedTokenVerifier(ScriptedTokens(principal()), telemetry).verify(TOKEN)
    for error in (AgentNotAuthorizedError, AuthUnavailableError):
        with pytest.raises(error):
            await agents.verify(ORG, AGENT)

    assert _lines(registry, "ibex_proxy_auth_calls_failed") == [
        'ibex_proxy_auth_calls_failed_total{kind="tokens"} 2.0',
        'ibex_proxy_auth_calls_failed_total{kind="agents"} 1.0',
    ]
