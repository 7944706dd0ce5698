"""What is done when the Sentinels name another primary; what they name is in the integration tests."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from harness.simulated_time import in_simulated_time
from ibex.adapters.redis.connection import LinkError
from ibex.adapters.redis.sentinel import CHECK_INTERVAL_S, SentinelPrimary


class ScriptedSentinels:
    """The Sentinels, and redis-py's client of them; None where they name no primary."""

    def __init__(self) -> None:
        self.service = "main"
        self.names: tuple[str, int] | None = ("one", 1)
        self.closed = False

    def sentinel(self) -> ScriptedSentinels:
        """Return the client."""
        return self

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Name the primary."""
        assert service == self.service
        if self.names is None:
            raise MasterNotFoundError("no primary")
        return self.names

    def connection(self, *node: object) -> Any:
        """Return what connects there: here the node itself."""
        return node

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


@in_simulated_time
async def test_another_primary_is_told_once() -> None:
    """Within a second, and not while the Sentinels name none."""
    sentinels, told = ScriptedSentinels(), asyncio.Queue[None]()
    primary = SentinelPrimary(cast("Any", sentinels), lambda: told.put_nowait(None))
    first: Any = await primary.connection()

    await asyncio.sleep(2 * CHECK_INTERVAL_S)
    sentinels.names = None
    await asyncio.sleep(2 * CHECK_INTERVAL_S)
    assert told.empty()
    sentinels.names = ("two", 2)
    await asyncio.sleep(3 * CHECK_INTERVAL_S)

    second: Any = await primary.connection()
    assert told.qsize() == 1
    assert (first, second) == (("one", 1), ("two", 2))
    await primary.close()
    assert sentinels.closed


@in_simulated_time
async def test_without_a_primary_there_is_no_connection() -> None:
    """As in the midst of a fail-over."""
    sentinels = ScriptedSentinels()
    sentinels.names = None
    with pytest.raises(LinkError, match="MasterNotFoundError"):
        await SentinelPrimary(cast("Any", sentinels)).connection()
