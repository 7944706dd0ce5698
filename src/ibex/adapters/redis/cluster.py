"""The primaries of a Redis Cluster: one link for each, and the map from hash slots to primaries."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from ibex.adapters.redis.connection import LinkError, ServerConnection, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from redis.exceptions import AskError

    from ibex.adapters.redis.server import PendingCommand, RedisObserver, ServerLink
    from ibex.adapters.redis.urls import RedisAddress

MIN_REFRESH_INTERVAL_S: Final = 0.5
_NODE_TIMEOUT_S: Final = 0.5
Node = tuple[str, int]


class ClusterLinks:
    """One link for each primary. While the primary of a slot is down, commands for that slot fail."""

    def __init__(
        self, address: RedisAddress, observer: RedisObserver, link_to: Callable[[str, int], ServerLink]
    ) -> None:
        """Set the nodes to start from. ``link_to`` returns a new link to a host and port."""
        self.address = address
        self._observer = observer
        self._link_to = link_to
        self._links: dict[Node, ServerLink] = {}
        self._slots: list[ServerLink | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known: list[Node] = list(address.nodes)
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_again = False
        self.reason = ""
        """Why the last refresh of the slot map failed; empty if none has failed."""
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self) -> None:
        """Read the slot map and connect to the primaries. Does not raise if nodes are down."""
        await self.refresh_now()
        await asyncio.gather(*(link.open() for link in self._links.values()))

    async def close(self) -> None:
        """Disconnect from all nodes, for good."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await asyncio.gather(*self._closing)
        while self._links:  # a redirection may add a link while others close
            links, self._links = list(self._links.values()), {}
            await asyncio.gather(*(link.close() for link in links))

    def link_for(self, tag: UUID | str) -> ServerLink | None:
        """Return the link to the primary of a hash tag. Return None, and start a refresh, if no primary is known."""
        link = self._slots[key_slot(str(tag).encode())]
        if link is None:
            self.refresh()
        return link

    def all_links(self) -> Iterable[ServerLink]:
        """Return the links to all primaries; empty if no slot map has been read."""
        return list(self._links.values())

    def refresh(self) -> None:
        """Start to read the slot map again, at most once every ``MIN_REFRESH_INTERVAL_S``. Returns at once."""
        if self._is_closed:
            return
        if self._refreshing is not None:
            self._refresh_again = True
            return
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    def redirect(self, link: ServerLink, command: PendingCommand, error: AskError, deadline: float) -> None:
        """Send a command to the node that a MOVED or ASK reply names. MOVED also updates the slot map."""
        host = error.host or next((node[0] for node, one in self._links.items() if one is link), "")
        target = self._link(host, error.port)
        if not command.asking:
            self._slots[error.slot_id] = target
            self.refresh()
        target.enqueue(command, deadline)

    def _link(self, host: str, port: int) -> ServerLink:
        link = self._links.get((host, port))
        if link is None:
            link = self._links[host, port] = self._link_to(host, port)
            link.on_failure, link.redirect = self.refresh, self.redirect
        return link

    async def _refresh(self) -> None:
        try:
            await self.refresh_now()
            await asyncio.sleep(MIN_REFRESH_INTERVAL_S)
        finally:
            self._refreshing = None
        if self._refresh_again:
            self._refresh_again = False
            self.refresh()

    async def refresh_now(self) -> None:
        """Read the slot map from the first node that answers. If none does, keep the map and set ``reason``."""
        nodes = random.sample(self._known, len(self._known))
        nodes += [node for node in self.address.nodes if node not in nodes]
        for node in nodes:
            try:
                async with asyncio.timeout(_NODE_TIMEOUT_S):
                    self._apply(node[0], await self._slots_by(node))
            except LinkError as error:
                self.reason = str(error)
            except TimeoutError:
                self.reason = "timeout while reading the slots"
            except (ValueError, TypeError, LookupError) as error:
                self.reason = f"unexpected reply to CLUSTER SLOTS ({type(error).__name__})"
            else:
                return
        self._observer.failed(self.reason, 0)

    async def _slots_by(self, node: Node) -> list[Any]:
        connection = ServerConnection(self.address.connection(*node))
        try:
            await connection.open()
            (reply,) = await connection.call([("CLUSTER", "SLOTS")])
        finally:
            await connection.close()
        if isinstance(reply, ResponseError):
            raise LinkError(f"CLUSTER SLOTS {refusal_of(reply)}")
        ranges: list[Any] = reply
        return ranges

    def _apply(self, asked: str, ranges: list[Any]) -> None:
        """Apply the reply to ``CLUSTER SLOTS``. Keep the links to primaries that remain, close the others."""
        primaries = [(first, last, _node(primary, asked)) for first, last, primary, *_ in ranges]
        known = [_node(node, asked) for _, _, *nodes in ranges for node in nodes]
        slots: list[ServerLink | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, node in primaries:
            slots[first : last + 1] = [self._link(*node)] * (last - first + 1)
        self._slots, self._known = slots, list(dict.fromkeys(known))
        gone = self._links.keys() - {node for _, _, node in primaries}
        for node in gone:
            task = asyncio.get_running_loop().create_task(self._links.pop(node).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _node(parts: list[Any], asked: str) -> Node:
    """Return host and port. A node that leaves its own host empty has the host that was asked."""
    host, port = parts[0], parts[1]
    return (host.decode() if host else asked), int(port)
