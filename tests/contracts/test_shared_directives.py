"""What every cache of directives keeps: ``domain.shared_directives.SharedDirectives``."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.chat_scene import DIRECTIVE
from harness.redis_worker import RedisWorker
from ibex.adapters.memory.shared_directives import InMemorySharedDirectives, NoSharedDirectives
from ibex.adapters.redis.keys import directive_key
from ibex.domain.freshness import Stamp
from ibex.domain.shared_directives import SharedDirective

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.shared_directives import SharedDirectives

ORG, AGENT = uuid4(), uuid4()
STAMP = Stamp("lease", "generation")
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
async def test_what_was_put_comes_back_under_its_stamp(shared: SharedDirectives, kept: SharedDirective) -> None:
    """A directive with all it has, and that there is none."""
    await shared.put(ORG, AGENT, STAMP, kept)
    assert await shared.get(ORG, AGENT, STAMP) == kept


@pytest.mark.parametrize("other", [Stamp("lease", "later"), Stamp("another", "generation")])
async def test_under_another_stamp_it_is_nothing(shared: SharedDirectives, other: Stamp) -> None:
    """A change was made since, or the instance is another: what was read before must not come after."""
    await shared.put(ORG, AGENT, STAMP, FOUND)
    assert await shared.get(ORG, AGENT, other) is None


async def test_every_agent_has_its_own(shared: SharedDirectives) -> None:
    """And every organization."""
    await shared.put(ORG, AGENT, STAMP, FOUND)
    assert await shared.get(ORG, uuid4(), STAMP) is None
    assert await shared.get(uuid4(), AGENT, STAMP) is None


async def test_the_last_one_put_counts(shared: SharedDirectives) -> None:
    """Whatever was there before."""
    await shared.put(ORG, AGENT, STAMP, FOUND)
    await shared.put(ORG, AGENT, STAMP, SharedDirective(None))
    assert await shared.get(ORG, AGENT, STAMP) == SharedDirective(None)


async def test_where_nothing_is_kept_nothing_is_found() -> None:
    """A process that is alone has no others."""
    none = NoSharedDirectives()
    await none.put(ORG, AGENT, STAMP, FOUND)
    assert await none.get(ORG, AGENT, STAMP) is None


@pytest.mark.integration
async def test_redis_out_of_reach_is_passed_over() -> None:
    """Neither way raises."""
    with socket.socket() as silent:  # bound, so that nobody else listens there
        silent.bind(("127.0.0.1", 0))
        worker = RedisWorker(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        await worker.directives.put(ORG, AGENT, STAMP, FOUND)
        assert await worker.directives.get(ORG, AGENT, STAMP) is None
        await worker.link.close()


@pytest.mark.integration
@pytest.mark.parametrize("junk", [b"", b"junk", b"\x93\xa1a\xa1b\x81\xa1x\x01", b"\x93\xa5lease\xaageneration\x07"])
async def test_what_another_version_wrote_is_nothing(redis_url: str, junk: bytes) -> None:
    """It is fetched from the source and written over."""
    worker = RedisWorker(redis_url)
    key = directive_key(ORG, AGENT)
    await worker.link.ask("junk", lambda _askers, _instance: ("SET", key, junk))
    assert await worker.directives.get(ORG, AGENT, STAMP) is None
    await worker.link.close()


@pytest.mark.integration
async def test_what_is_kept_in_redis_expires(redis_url: str) -> None:
    """With its minute."""
    worker = RedisWorker(redis_url)
    await worker.directives.put(ORG, AGENT, STAMP, FOUND)
    answer, _ = await worker.link.ask("ttl", lambda _askers, _instance: ("PTTL", directive_key(ORG, AGENT)))
    assert answer is not None
    assert 0 < answer.reply <= 60_000
    await worker.link.close()
