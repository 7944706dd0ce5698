"""The contract of ``SharedDirectives``, the shared cache of directives."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis import Redis

from harness.chat_scene import DIRECTIVE
from harness.redis_worker import RedisWorker
from ibex.adapters.memory.shared_directives import InMemorySharedDirectives, NoSharedDirectives
from ibex.domain.directives.shared import SharedDirective

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.directives.shared import SharedDirectives

ORG, AGENT = uuid4(), uuid4()
EPOCH, LATER = "an epoch", "a later epoch"
FOUND = SharedDirective(DIRECTIVE)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[SharedDirectives]:
    """Each cache in turn, empty."""
    if request.param == "memory":
        yield InMemorySharedDirectives()
    else:
        worker = RedisWorker(request.getfixturevalue("redis_url"))
        yield worker.directives
        await worker.link.close()


@pytest.mark.parametrize("kept", [FOUND, SharedDirective(None)])
async def test_a_stored_directive_is_found_under_its_epoch(shared: SharedDirectives, kept: SharedDirective) -> None:
    """The cache also stores that an agent has no directive."""
    await shared.put(ORG, AGENT, EPOCH, kept)
    assert await shared.get(ORG, AGENT, EPOCH) == kept


@pytest.mark.parametrize("other", [LATER, ""])
async def test_a_directive_is_not_found_under_another_epoch(shared: SharedDirectives, other: str) -> None:
    """A new epoch means a change, so a directive read before it is not served."""
    await shared.put(ORG, AGENT, EPOCH, FOUND)
    assert await shared.get(ORG, AGENT, other) is None


async def test_a_directive_is_not_found_for_another_agent(shared: SharedDirectives) -> None:
    """Another organization does not find it either."""
    await shared.put(ORG, AGENT, EPOCH, FOUND)
    assert await shared.get(ORG, uuid4(), EPOCH) is None
    assert await shared.get(uuid4(), AGENT, EPOCH) is None


async def test_a_put_overwrites_the_previous_entry(shared: SharedDirectives) -> None:
    """A later get returns the latest entry."""
    await shared.put(ORG, AGENT, EPOCH, FOUND)
    await shared.put(ORG, AGENT, EPOCH, SharedDirective(None))
    assert await shared.get(ORG, AGENT, EPOCH) == SharedDirective(None)


async def test_a_disabled_cache_finds_nothing() -> None:
    """A single process shares its entries with no other."""
    none = NoSharedDirectives()
    await none.put(ORG, AGENT, EPOCH, FOUND)
    assert await none.get(ORG, AGENT, EPOCH) is None


@pytest.mark.integration
async def test_an_unreachable_redis_is_a_miss() -> None:
    """Neither put nor get raises."""
    with socket.socket() as silent:  # bound, so that nothing else listens there
        silent.bind(("127.0.0.1", 0))
        worker = RedisWorker(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        await worker.directives.put(ORG, AGENT, EPOCH, FOUND)
        assert await worker.directives.get(ORG, AGENT, EPOCH) is None
        await worker.link.close()


@pytest.mark.integration
@pytest.mark.parametrize("junk", [b"", b"junk", b"\x01" + bytes(200)])
async def test_a_forged_entry_is_a_miss(redis_url: str, junk: bytes) -> None:
    """The worker counts the unverified entry, and the next put overwrites it."""
    worker = RedisWorker(redis_url)
    await worker.directives.put(ORG, AGENT, EPOCH, FOUND)
    with Redis.from_url(redis_url) as intruder:
        (key,) = intruder.scan_iter()
        intruder.set(key, junk)
    assert await worker.directives.get(ORG, AGENT, EPOCH) is None
    assert worker.unverified == 1

    await worker.directives.put(ORG, AGENT, EPOCH, FOUND)
    assert await worker.directives.get(ORG, AGENT, EPOCH) == FOUND
    await worker.link.close()


@pytest.mark.integration
async def test_a_copied_entry_is_a_miss(redis_url: str) -> None:
    """An entry is not valid for another agent or a later epoch, nor after its lifetime."""
    worker, other = RedisWorker(redis_url), uuid4()
    with Redis.from_url(redis_url) as intruder:
        await worker.directives.put(ORG, AGENT, EPOCH, FOUND)
        (key,) = intruder.scan_iter()
        sealed = intruder.get(key)
        await worker.directives.put(ORG, other, EPOCH, SharedDirective(None))
        await worker.directives.put(ORG, AGENT, LATER, SharedDirective(None))
        for written in intruder.scan_iter():
            intruder.set(written, sealed)

    assert await worker.directives.get(ORG, other, EPOCH) is None
    assert await worker.directives.get(ORG, AGENT, LATER) is None
    assert worker.unverified == 2
    assert await worker.directives.get(ORG, AGENT, EPOCH) == FOUND
    worker.clock.advance(timedelta(seconds=61))
    assert await worker.directives.get(ORG, AGENT, EPOCH) is None
    await worker.link.close()


@pytest.mark.integration
async def test_an_entry_in_redis_expires(redis_url: str) -> None:
    """Its time to live is at most one minute."""
    worker = RedisWorker(redis_url)
    await worker.directives.put(ORG, AGENT, EPOCH, FOUND)
    with Redis.from_url(redis_url) as client:
        (key,) = client.scan_iter()
        assert 0 < client.pttl(key) <= 60_000
    await worker.link.close()
