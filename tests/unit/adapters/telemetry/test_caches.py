"""Tests of the metrics of the caches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.chat_scene import AGENT, ORG, TOKEN, ScriptedTokens, principal
from ibex.adapters.telemetry.caches import (
    CacheTelemetry,
    InstrumentedCache,
    InstrumentedSharedDirectives,
    InstrumentedTokenVerifier,
)
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.directives.shared import SharedDirective
from ibex.domain.errors import InvalidTokenError
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.guessed_secrets import Share

if TYPE_CHECKING:
    from uuid import UUID


EPOCH = "an epoch"


def _counted(registry: Registry) -> list[str]:
    lines = registry.render()[0].decode().splitlines()
    return [
        line
        for line in lines
        if line.startswith(("ibex_proxy_cache", "ibex_proxy_filter")) and not line.endswith(" 0.0")
    ]


def test_lookups_are_counted_by_kind_tier_and_outcome() -> None:
    """The tier is the worker's own cache or the shared cache."""
    registry = Registry("ibex_proxy_")
    telemetry = CacheTelemetry(registry)

    for _ in range(2):
        telemetry.hit(Kind.TOKENS)
    telemetry.missed(Kind.AGENTS)
    telemetry.refetched(Kind.DIRECTIVES)
    telemetry.served_stale(Kind.TOKENS)
    telemetry.shared(Kind.DIRECTIVES, found=True)
    telemetry.shared(Kind.DIRECTIVES, found=False)

    assert sorted(_counted(registry)) == [
        'ibex_proxy_cache_lookups_total{kind="agents",outcome="miss",tier="worker"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="hit",tier="shared"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="miss",tier="shared"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="refetch",tier="worker"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="tokens",outcome="hit",tier="worker"} 2.0',
        'ibex_proxy_cache_lookups_total{kind="tokens",outcome="stale",tier="worker"} 1.0',
    ]


def test_refused_calls_to_auth_are_counted_by_share() -> None:
    """The metric shows an operator that someone guesses secrets or invents agent ids."""
    registry = Registry("ibex_proxy_")
    telemetry = CacheTelemetry(registry)

    telemetry.call_refused(Share.LANE)
    telemetry.call_refused(Share.LANE)
    telemetry.call_refused(Share.AGENT)

    text = registry.render()[0].decode()
    assert 'ibex_proxy_auth_calls_refused_total{share="lane"} 2.0' in text
    assert 'ibex_proxy_auth_calls_refused_total{share="agent"} 1.0' in text


def test_evictions_are_counted() -> None:
    """The cache evicts the least recently used entry. Replacing or removing an entry is not an eviction."""
    registry = Registry("ibex_proxy_")
    cache = InstrumentedCache(2, Kind.AGENTS, CacheTelemetry(registry))
    cache["a"], cache["b"] = 1, 2
    cache["a"] = 3
    assert _counted(registry) == []

    cache["c"] = 4
    del cache["a"]

    assert set(cache) == {"c"}
    assert _counted(registry) == ['ibex_proxy_cache_evictions_total{kind="agents",tier="worker"} 1.0']


async def test_an_invalid_token_that_the_filter_passed_counts_as_a_false_positive() -> None:
    """A valid token, or a token that was not looked up in the filter, does not count."""
    registry = Registry("ibex_proxy_")
    telemetry = CacheTelemetry(registry)
    nobodys = InstrumentedTokenVerifier(ScriptedTokens(InvalidTokenError()), telemetry)
    somebodys = InstrumentedTokenVerifier(ScriptedTokens(principal()), telemetry)

    async def look_up(tokens: InstrumentedTokenVerifier, *, filtered: bool) -> None:
        if filtered:
            telemetry.filtered(is_absent=False)
        await tokens.verify(TOKEN)

    telemetry.filtered(is_absent=True)
    for tokens, filtered in ((nobodys, False), (nobodys, True), (nobodys, False)):
        with pytest.raises(InvalidTokenError):
            await asyncio.create_task(look_up(tokens, filtered=filtered))
    await asyncio.create_task(look_up(somebodys, filtered=True))

    assert sorted(_counted(registry)) == [
        'ibex_proxy_filter_lookups_total{outcome="absent"} 1.0',
        'ibex_proxy_filter_lookups_total{outcome="false_positive"} 1.0',
        'ibex_proxy_filter_lookups_total{outcome="passed"} 2.0',
    ]


class _Shared:
    """A ``SharedDirectives`` with one slot."""

    def __init__(self) -> None:
        self.kept: SharedDirective | None = None

    async def get(self, _org_id: UUID, _agent_id: UUID, _epoch: str) -> SharedDirective | None:
        """Return the stored directive."""
        return self.kept

    async def put(self, _org_id: UUID, _agent_id: UUID, _epoch: str, shared: SharedDirective) -> None:
        """Store a directive."""
        self.kept = shared


async def test_lookups_of_shared_directives_are_counted() -> None:
    """A cached entry for an agent without a directive also counts as a hit."""
    registry = Registry("ibex_proxy_")
    observed = InstrumentedSharedDirectives(_Shared(), CacheTelemetry(registry))

    assert await observed.get(ORG, AGENT, EPOCH) is None
    await observed.put(ORG, AGENT, EPOCH, SharedDirective(None))
    assert await observed.get(ORG, AGENT, EPOCH) == SharedDirective(None)

    assert sorted(_counted(registry)) == [
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="hit",tier="shared"} 1.0',
        'ibex_proxy_cache_lookups_total{kind="directives",outcome="miss",tier="shared"} 1.0',
    ]
