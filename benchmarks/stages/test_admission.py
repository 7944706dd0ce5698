"""The stages of admission and of the directive's lookup, all from the worker's own memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from benchmarks.stages.scene import driven, warm_caches

from harness.chat_scene import AGENT, DIRECTIVE, ORG, TOKEN
from ibex.domain.freshness.kinds import Epoch
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from ibex.domain.identity.model import Agent, Principal

pytestmark = pytest.mark.benchmark(group="1 admission")


async def _nothing() -> None:
    pass


def test_nothing_driven_by_hand(benchmark: BenchmarkFixture) -> None:
    """Drive an empty coroutine: the overhead that is included in the figures of all driven coroutines."""
    benchmark(driven(_nothing))


def test_parse_token(benchmark: BenchmarkFixture) -> None:
    """Check shape and checksum."""
    parsed = benchmark(PersonalAccessToken.parse, TOKEN.reveal())

    assert parsed.token_id == TOKEN.token_id


def test_authenticate_from_lru(benchmark: BenchmarkFixture) -> None:
    """Digest the token, find it, and validate it by the watch and the epoch."""
    scene, text = warm_caches(), TOKEN.reveal()

    async def authenticate() -> Principal:
        return await scene.tokens.validate(await scene.tokens.look_up(text), scene.epoch)

    assert benchmark(driven(authenticate)).org_id == ORG


def test_verify_agent_from_lru(benchmark: BenchmarkFixture) -> None:
    """Find the agent and validate it by the watch and the epoch."""
    scene, agent_id = warm_caches(), str(AGENT)

    async def verify() -> Agent:
        return await scene.agents.validate(await scene.agents.look_up(ORG, UUID(agent_id)), scene.epoch)

    assert benchmark(driven(verify)).id == AGENT


def test_admit_caller_counting_in_memory(benchmark: BenchmarkFixture) -> None:
    """Run the whole admission with its in-flight exchange: token, agent, count, validation; no round trip."""
    scene = warm_caches()

    async def admit() -> InFlightExchange:
        in_flight = InFlightExchange.begin(scene.clock, TOKEN.token_id, "")
        await scene.admit(scene.credentials, in_flight)
        return in_flight

    assert benchmark(driven(admit)).auth_cached


def test_resolve_directive_from_lru(benchmark: BenchmarkFixture) -> None:
    """Find the active directive and validate it by the watch and the epoch."""
    scene = warm_caches()

    assert benchmark(driven(lambda: scene.directives.look_up(ORG, AGENT, scene.epoch))).value == DIRECTIVE


def test_recheck_before_the_provider_is_asked(benchmark: BenchmarkFixture) -> None:
    """Check token and agent again, with a recent epoch reading."""
    scene = warm_caches()
    in_flight = InFlightExchange.begin(scene.clock, TOKEN.token_id, "")
    admitted = driven(lambda: scene.admit(scene.credentials, in_flight))()

    async def recheck() -> Epoch:
        admitted.epoch = Epoch(scene.epoch.value, was_read=True, asked_ns=scene.clock.monotonic_ns())
        return await scene.admit.recheck(admitted, in_flight)

    assert benchmark(driven(recheck)).value == scene.epoch.value
