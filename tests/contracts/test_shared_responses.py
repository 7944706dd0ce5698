"""The contract of every shared cache of responses: ``domain.record.received_responses.SharedResponses``."""

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


async def test_others_are_not_found(shared: SharedResponses) -> None:
    """A response is found neither by another id nor by another organization."""
    await shared.put(RESPONSE)
    assert await shared.get(RESPONSE.org_id, "resp_2") is None
    assert await shared.get(uuid4(), RESPONSE.id) is None


async def test_without_a_shared_memory_nothing_is_found() -> None:
    """The result is None, not an error."""
    none = NoSharedResponses()
    await none.put(RESPONSE)
    assert await none.get(RESPONSE.org_id, RESPONSE.id) is None


@pytest.mark.integration
async def test_without_an_answer_of_redis_nothing_is_certain() -> None:
    """A lookup raises an error. Storing does not."""
    with socket.socket() as silent:  # bound, so that nothing else listens there
        silent.bind(("127.0.0.1", 0))
        worker = RedisWorker(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        await worker.responses.put(RESPONSE)
        with pytest.raises(SharedCacheError):
            await worker.responses.get(RESPONSE.org_id, RESPONSE.id)
        await worker.link.close()


@pytest.mark.integration
async def test_an_entry_that_was_forged_or_moved_is_not_used(redis_url: str) -> None:
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
