"""Who is it, may they, and with which directive: everything from the worker's own memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from benchmarks.stages.scene import driven, warm_caches

from harness.chat_scene import AGENT, DIRECTIVE, ORG, TOKEN
from ibex.domain.identity import PersonalAccessToken
from ibex.domain.open_exchange import OpenExchange

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from ibex.domain.identity import Agent, Principal

pytestmark = pytest.mark.benchmark(group="1 admission")


async def _nothing() -> None:
    pass


def test_nothing_driven_by_hand(benchmark: BenchmarkFixture) -> None:
    """An empty coroutine: what driving by hand costs of the figures of those that are driven so."""
    benchmark(driven(_nothing))


def test_parse_token(benchmark: BenchmarkFixture) -> None:
    """Shape and checksum."""
    parsed = benchmark(PersonalAccessToken.parse, TOKEN.reveal())

    assert parsed.token_id == TOKEN.token_id


def test_authenticate_from_lru(benchmark: BenchmarkFixture) -> None:
    """Digest the token, find it, and confirm it by the news."""
    scene, text = warm_caches(), TOKEN.reveal()

    async def authenticate() -> Principal:
        return await scene.tokens.confirm(await scene.tokens.recall(text), scene.news)

    assert benchmark(driven(authenticate)).org_id == ORG


def test_verify_agent_from_lru(benchmark: BenchmarkFixture) -> None:
    """Find the agent and confirm it by the news."""
    scene, agent_id = warm_caches(), str(AGENT)

    async def verify() -> Agent:
        return await scene.agents.confirm(await scene.agents.recall(ORG, UUID(agent_id)), scene.news)

    assert benchmark(driven(verify)).id == AGENT


def test_admit_caller_counting_in_memory(benchmark: BenchmarkFixture) -> None:
    """The whole first half of a request with its notes: token, agent, count, confirmation; no round trip."""
    scene = warm_caches()

    async def admit() -> OpenExchange:
        notes = OpenExchange.begin(scene.clock, TOKEN.token_id, "")
        await scene.admit(scene.credentials, notes)
        return notes

    assert benchmark(driven(admit)).auth_cached


def test_resolve_directive_from_lru(benchmark: BenchmarkFixture) -> None:
    """Find what is in force and confirm it by the news."""
    scene = warm_caches()

    assert benchmark(driven(lambda: scene.directives.active(ORG, AGENT, scene.news))) == DIRECTIVE
