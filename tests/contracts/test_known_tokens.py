"""What every filter of live tokens keeps where nobody vouches for it; ``test_board`` has it where somebody does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.redis_worker import RedisWorker
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.known_tokens import NoFilter
from ibex.adapters.system.ids import SystemIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.known_tokens import KnownTokens


@pytest.fixture(
    params=[
        "none",
        "memory",
        "memory, out of reach",
        pytest.param("redis", marks=pytest.mark.integration),
        pytest.param("redis, out of reach", marks=pytest.mark.integration),
    ]
)
async def known(request: pytest.FixtureRequest) -> AsyncIterator[KnownTokens]:
    """Each filter in turn, with nothing in it."""
    name, _, out_of_reach = request.param.partition(", ")
    if name == "none":
        yield NoFilter()
    elif name == "memory":
        board = InMemoryBoard(ManualClock(), SystemIds())
        board.reachable = not out_of_reach
        yield board
    elif out_of_reach:
        with socket.socket() as silent:  # bound, so that nobody else listens there
            silent.bind(("127.0.0.1", 0))
            worker = RedisWorker(f"redis://127.0.0.1:{silent.getsockname()[1]}")
            yield worker.known
            await worker.link.close()
    else:
        worker = RedisWorker(request.getfixturevalue("redis_url"))
        yield worker.known
        await worker.link.close()


async def test_a_filter_that_nobody_vouches_for_excludes_nothing(known: KnownTokens) -> None:
    """An empty or lost Redis makes no live token unknown; it does not raise, the first time or later."""
    assert [await known.excludes(uuid4()) for _ in range(5)] == [False] * 5
