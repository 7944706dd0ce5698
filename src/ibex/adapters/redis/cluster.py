"""The primaries of a Redis Cluster: a link to each, and which of them has an organization's slot."""

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

    from ibex.adapters.redis.server import Question, RedisObserver, ServerLink
    from ibex.adapters.redis.urls import RedisAddress

REFRESH_SPACING_S: Final = 0.5
_NODE_TIMEOUT_S: Final = 0.5
Node = tuple[str, int]


class ClusterLinks:
    """One link for each primary. While the primary of a slot is away, questions about it are not answered."""

    def __init__(
        self, address: RedisAddress, observer: RedisObserver, link_to: Callable[[str, int], ServerLink]
    ) -> None:
        """Take what makes the link to a node."""
        self._address = address
        self._observer = observer
        self._link_to = link_to
        self._links: dict[Node, ServerLink] = {}
        self._slots: list[ServerLink | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known: list[Node] = list(address.nodes)
        self._refreshing: asyncio.Task[None] | None = None
        self._again = False
        self.reason = ""
        """Why the slots could not be learned when they were last asked for."""
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self) -> None:
        """Learn the slots and connect to the primaries that are there."""
        await self.refresh_now()
        await asyncio.gather(*(link.open() for link in self._links.values()))

    async def close(self) -> None:
        """Disconnect from all, for good."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await asyncio.gather(*self._closing)
        while self._links:  # a redirection may add a link meanwhile
            links, self._links = list(self._links.values()), {}
            await asyncio.gather(*(link.close() for link in links))

    def link_for(self, tag: UUID | str) -> ServerLink | None:
        """Return the link to the primary of a hash tag; None if no primary is known."""
        link = self._slots[key_slot(str(tag).encode())]
        if link is None:
            self.refresh()
        return link

    def all_links(self) -> Iterable[ServerLink]:
        """Return the links to all primaries."""
        return list(self._links.values())

    def refresh(self) -> None:
        """Learn the slots again, soon: at most every ``REFRESH_SPACING_S``."""
        if self._is_closed:
            return
        if self._refreshing is not None:
            self._again = True
            return
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    def redirect(self, link: ServerLink, question: Question, error: AskError, ends: float) -> None:
        """Send a question to the node that has its slot, or is being given it."""
        host = error.host or next((node[0] for node, one in self._links.items() if one is link), "")
        target = self._link(host, error.port)
        if not question.asking:
            self._slots[error.slot_id] = target
            self.refresh()
        target.accept(question, ends)

    def _link(self, host: str, port: int) -> ServerLink:
        link = self._links.get((host, port))
        if link is None:
            link = self._links[host, port] = self._link_to(host, port)
            link.on_failure, link.redirect = self.refresh, self.redirect
        return link

    async def _refresh(self) -> None:
        try:
            await self.refresh_now()
            await asyncio.sleep(REFRESH_SPACING_S)
        finally:
            self._refreshing = None
        if self._again:
            self._again = False
            self.refresh()

    async def refresh_now(self) -> None:
        """Ask one node after another for the slots; keep what is known if none answers."""
        nodes = random.sample(self._known, len(self._known))
        nodes += [node for node in self._address.nodes if node not in nodes]
        for node in nodes:
            try:
                async with asyncio.timeout(_NODE_TIMEOUT_S):
                    self._take(node[0], await self._slots_by(node))
            except LinkError as error:
                self.reason = str(error)
            except TimeoutError:
                self.reason = "timeout in asking for the slots"
            except (ValueError, TypeError, LookupError) as error:
                self.reason = f"the slots are not understood ({type(error).__name__})"
            else:
                return
        self._observer.failed(self.reason, 0)

    async def _slots_by(self, node: Node) -> list[Any]:
        connection = ServerConnection(self._address.connection(*node))
        try:
            await connection.open()
            (reply,) = await connection.call([("CLUSTER", "SLOTS")])
        finally:
            await connection.close()
        if isinstance(reply, ResponseError):
            raise LinkError(f"CLUSTER SLOTS is {refusal_of(reply)}")
        ranges: list[Any] = reply
        return ranges

    def _take(self, asked: str, ranges: list[Any]) -> None:
        """Take what ``CLUSTER SLOTS`` told; keep the links to the primaries that are still there."""
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
    """Return host and port; a node that does not know its own address is where it was asked."""
    host, port = parts[0], parts[1]
    return (host.decode() if host else asked), int(port)
