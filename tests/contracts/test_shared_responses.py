"""The contract of ``SharedResponses``, the shared cache of received responses."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis import Redis

from harness.memory.responses import InMemoryResponses
from harness.redis_worker import RedisWorker
from ibex.adapters.memory.shared_responses import NoSharedResponses
from ibex.adapters.redis.shared_responses import PURPOSE, TTL_S, RedisSharedResponses
from ibex.domain.directives.seal import Seal
from ibex.domain.record.received_responses import ReceivedResponse, SharedCacheError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.record.received_responses import SharedResponses

RESPONSE = ReceivedResponse("resp_1", uuid4(), uuid4(), "a session", "openai", uuid4())


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[SharedResponses]:
    """Return each cache in turn, empty."""
    if request.param == "memory":
        yield InMemoryResponses()
    else:
        worker = RedisWorker(request.getfixturevalue("redis_url"))
        yield worker.responses
        await worker.link.close()


@pytest.mark.parametrize("response", [RESPONSE, replace(RESPONSE, directive_version_id=None)])
async def test_a_stored_response_is_found(shared: SharedResponses, response: ReceivedResponse) -> None:
    """All its fields are as stored."""
    await shared.put(response)
    assert await shared.get(response.org_id, response.id) == response


async def test_a_response_is_found_only_by_its_own_id_and_organization(shared: SharedResponses) -> None:
    """Another id and another organization return None."""
    await shared.put(RESPONSE)
    assert await shared.get(RESPONSE.org_id, "resp_2") is None
    assert await shared.get(uuid4(), RESPONSE.id) is None


async def test_a_disabled_cache_finds_nothing() -> None:
    """The result is None, not an error."""
    none = NoSharedResponses()
    await none.put(RESPONSE)
    assert await none.get(RESPONSE.org_id, RESPONSE.id) is None


@pytest.mark.integration
async def test_a_lookup_raises_if_redis_does_not_answer() -> None:
    """Storing a response does not raise."""
    with socket.socket() as silent:  # bound, so that nothing else listens there
        silent.bind(("127.0.0.1", 0))
        worker = RedisWorker(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        await worker.responses.put(RESPONSE)
        with pytest.raises(SharedCacheError):
            await worker.responses.get(RESPONSE.org_id, RESPONSE.id)
        await worker.link.close()


@pytest.mark.integration
async def test_a_forged_or_moved_entry_is_ignored(redis_url: str) -> None:
    """Only a holder of the key can write an entry. Entries expire."""
    worker = RedisWorker(redis_url)
    await worker.responses.put(RESPONSE)
    with Redis.from_url(redis_url) as redis:
        (key,) = redis.keys(f"ibex:{{{RESPONSE.org_id}}}:response:*")
        assert 0 < redis.ttl(key) <= TTL_S
        moved = key.replace(b"resp_1", b"resp_2")
        redis.set(moved, redis.get(key))
        assert await worker.responses.get(RESPONSE.org_id, "resp_2") is None
        other = RedisSharedResponses(worker.link, worker.clock, Seal(b"another key", PURPOSE))
        assert await other.get(RESPONSE.org_id, "resp_1") is None
    assert worker.unverified == 1
    await worker.link.close()
