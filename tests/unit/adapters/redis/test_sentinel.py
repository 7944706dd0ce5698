"""Tests of the reaction to a new primary. The integration tests run it with real Sentinels."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from harness.simulated_time import in_simulated_time
from ibex.adapters.redis.connection import LinkError
from ibex.adapters.redis.sentinel import CHECK_INTERVAL_S, SentinelPrimary


class ScriptedSentinels:
    """A fake of the Sentinels and of redis-py's client. They name no primary if ``names`` is None."""

    def __init__(self) -> None:
        self.service = "main"
        self.names: tuple[str, int] | None = ("one", 1)
        self.closed = False

    def sentinel(self) -> ScriptedSentinels:
        """Return the client."""
        return self

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Return the primary."""
        assert service == self.service
        if self.names is None:
            raise MasterNotFoundError("no primary")
        return self.names

    def connection(self, *node: object) -> Any:
        """Return a connection to a node; here the node itself."""
        return node

    async def aclose(self) -> None:
        """Record that the client was closed."""
        self.closed = True


@in_simulated_time
async def test_a_new_primary_is_reported_once() -> None:
    """The callback is called within a second, and not while the Sentinels name no primary."""
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
async def test_a_connection_without_a_primary_raises_an_error() -> None:
    """In the middle of a fail-over, the Sentinels name no primary."""
    sentinels = ScriptedSentinels()
    sentinels.names = None
    with pytest.raises(LinkError, match="MasterNotFoundError"):
        await SentinelPrimary(cast("Any", sentinels)).connection()


class SwallowingSentinels(ScriptedSentinels):
    """A client that reports a cancellation as a lost connection, as a library may."""

    def __init__(self) -> None:
        super().__init__()
        self.checking = asyncio.Event()

    async def discover_master(self, service: str) -> tuple[str, int]:
        """Return the primary at once the first time; afterwards wait for a cancellation."""
        if not self.checking.is_set() and self.names == ("one", 1):
            self.names = ("two", 2)
            return ("one", 1)
        self.checking.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise ConnectionError from None
        return await super().discover_master(service)


@in_simulated_time
async def test_closing_ends_the_check_even_if_a_cancellation_is_swallowed() -> None:
    """Otherwise the process would never exit."""
    sentinels = SwallowingSentinels()
    primary = SentinelPrimary(cast("Any", sentinels))
    await primary.connection()
    await sentinels.checking.wait()

    async with asyncio.timeout(10 * CHECK_INTERVAL_S):
        await primary.close()

    assert sentinels.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_simulated_time
async def test_a_connection_after_closing_starts_no_check() -> None:
    """A caller may have been waiting for the Sentinels while the client was closed."""
    primary = SentinelPrimary(cast("Any", ScriptedSentinels()))
    await primary.close()
    await primary.connection()
    assert asyncio.all_tasks() == {asyncio.current_task()}
