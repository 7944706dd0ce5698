"""Tests of the slot map and the redirections of a Redis Cluster. The integration tests use real nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import AskError, MovedError

from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.redis.cluster import ClusterLinks
from ibex.adapters.redis.server import PendingCommand
from ibex.adapters.redis.urls import RedisAddress

if TYPE_CHECKING:
    from collections.abc import Callable

TAG_OF_SLOT_0 = "3560"


@dataclass
class RecordingLink:
    """A link that does not answer, and records the commands that it is given."""

    node: tuple[str, int]
    enqueued: list[PendingCommand] = field(default_factory=list)
    on_failure: Callable[[], None] | None = None
    redirect: Callable[..., None] | None = None
    closed: bool = False

    def enqueue(self, command: PendingCommand, _deadline: float) -> None:
        """Record the command."""
        self.enqueued.append(command)

    async def close(self) -> None:
        """Record that the link was closed."""
        self.closed = True


class ScriptedCluster(ClusterLinks):
    """Links to fake nodes, which return the slot map of a test."""

    def __init__(self, *ranges: list[Any]) -> None:
        self.ranges = list(ranges)
        self.asked: list[tuple[str, int]] = []
        address = RedisAddress.parse("redis+cluster://one:1,two:2")
        super().__init__(address, RecordingRedisObserver(), lambda *node: cast("Any", RecordingLink(node)))

    async def _slots_by(self, node: tuple[str, int]) -> list[Any]:
        self.asked.append(node)
        return self.ranges

    def node_for(self, tag: str) -> tuple[str, int]:
        """Return the node that gets the commands of a hash tag."""
        link = cast("Any", self.link_for(tag))
        found: tuple[str, int] = link.node
        return found


def in_range(first: int, last: int, host: bytes, port: int) -> list[Any]:
    """Return a range of slots in the form of CLUSTER SLOTS, with a replica."""
    return [first, last, [host, port, b"id"], [b"replica", 9, b"id"]]


async def test_every_slot_maps_to_the_link_of_its_primary() -> None:
    """A node that leaves its own host empty has the host that sent the slot map."""
    cluster = ScriptedCluster(in_range(0, 100, b"one", 1), in_range(101, 16_383, b"", 2))
    await cluster.refresh_now()

    assert cluster.node_for(TAG_OF_SLOT_0) == ("one", 1)
    assert cluster.node_for("another") == (cluster.asked[0][0], 2)
    await cluster.close()


async def test_links_to_remaining_primaries_are_kept() -> None:
    """The link to a removed primary is closed."""
    cluster = ScriptedCluster(in_range(0, 100, b"one", 1), in_range(101, 16_383, b"two", 2))
    await cluster.refresh_now()
    stays, gone = cast("Any", cluster.link_for("another")), cast("Any", cluster.link_for(TAG_OF_SLOT_0))
    cluster.ranges[0] = in_range(0, 100, b"three", 3)
    await cluster.refresh_now()

    assert cluster.link_for("another") is stays
    assert cluster.node_for(TAG_OF_SLOT_0) == ("three", 3)
    await cluster.close()
    assert gone.closed


async def test_a_redirected_command_goes_to_the_named_node() -> None:
    """MOVED changes the slot map; ASK applies to one command only."""
    cluster = ScriptedCluster(in_range(0, 16_383, b"one", 1))
    await cluster.refresh_now()
    link = cast("Any", cluster.link_for(TAG_OF_SLOT_0))
    asking, moved = (PendingCommand(lambda _callers: ("GET", "a"), asking=asking) for asking in (True, False))

    cluster.redirect(link, asking, AskError("0 two:2"), 1.0)
    assert cluster.node_for(TAG_OF_SLOT_0) == ("one", 1)
    cluster.redirect(link, moved, MovedError("0 :2"), 1.0)

    assert cluster.node_for(TAG_OF_SLOT_0) == ("one", 2)
    assert cast("Any", cluster.link_for(TAG_OF_SLOT_0)).enqueued == [moved]
    await cluster.close()
