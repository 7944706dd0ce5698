"""The processes of the simulated world: auth replicas and workers, as production has them, over links."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harness.freshness_links import (
    AgentsOverLink,
    BoardOverLink,
    Link,
    Mode,
    NewsOverLink,
    StoreOverLink,
    TokensOverLink,
)
from ibex.domain.admit_caller import AdmitCaller
from ibex.domain.auth_calls import AuthCalls
from ibex.domain.cached_identity import CachedAgents, CachedTokens, agent_lifetimes, token_lifetimes
from ibex.domain.errors import IbexError
from ibex.domain.fresh_cache import FreshCache
from ibex.domain.freshness import Kind
from ibex.domain.keep_fresh import AnnounceAtOnce, KeepFresh
from ibex.domain.manage_identity import ManageIdentity, VerifyAgent, VerifyToken
from ibex.domain.refused_requests import RefusedRequests
from ibex.domain.token_hash import TokenPeppers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from random import Random
    from uuid import UUID

    from ibex.adapters.memory.board import InMemoryBoard
    from ibex.adapters.memory.identity import InMemoryIdentity
    from ibex.domain.clock import Clock
    from ibex.domain.identity import Agent, PersonalAccessToken, Principal
    from ibex.domain.ids import IdSource
    from ibex.domain.manage_identity import IdentityStore

BOARD_TIMEOUT_S = 0.5
NEWS_TIMEOUT_S = 0.05
AUTH_TIMEOUT_S = 0.05
STORE_TIMEOUT_S = 6.0
PEPPERS = TokenPeppers({"k": bytes(16)})


@dataclass(slots=True)
class Parts:
    """What all processes share: what stands behind their links, time, ids and chance."""

    random: Random
    clock: Clock
    ids: IdSource
    board: InMemoryBoard
    store: InMemoryIdentity


@dataclass(slots=True)
class Silent:
    """Hears of the lease and of caches, and says nothing."""

    def renewed(self) -> None:
        """See ``LeaseObserver``."""

    def not_renewed(self, why: str) -> None:
        """See ``LeaseObserver``."""

    def hit(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def missed(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def refetched(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def served_stale(self, kind: Kind) -> None:
        """See ``CacheObserver``."""


class Replica:
    """One auth process, which can be killed and started again."""

    def __init__(self, parts: Parts, on_bug: Callable[[BaseException], None]) -> None:
        self._parts = parts
        self._on_bug = on_bug
        self._running: set[asyncio.Task[object]] = set()
        self.start()

    def start(self) -> None:
        """Start a new process."""
        parts = self._parts
        self.to_store = Link(parts.random, STORE_TIMEOUT_S)
        self.to_board = Link(parts.random, BOARD_TIMEOUT_S)
        store = StoreOverLink(self.to_store, parts.store)
        identity = cast("IdentityStore", store)
        board = BoardOverLink(self.to_board, parts.board)
        keep_fresh = KeepFresh(store, board, Silent())
        announce = AnnounceAtOnce(board, keep_fresh.announcement_failed)
        self.manage = ManageIdentity(identity, PEPPERS, announce, parts.clock, parts.ids)
        self.verify_token = VerifyToken(identity, PEPPERS, parts.clock)
        self.verify_agent = VerifyAgent(identity)
        self.alive = True
        self.spawn(keep_fresh.run())

    def spawn(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Do something in this process."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def kill(self) -> None:
        """End the process: from this moment on nothing of it reaches anybody."""
        self.alive = False
        for link in (self.to_store, self.to_board):
            link.cut(Mode.REFUSING)
        for task in list(self._running):
            task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, IbexError):
            self._on_bug(error)


class Worker:
    """One proxy process. The questions are put to whichever replica they find."""

    def __init__(
        self,
        parts: Parts,
        verify_token: Callable[[PersonalAccessToken], Awaitable[Principal]],
        verify_agent: Callable[[UUID, UUID], Awaitable[Agent]],
    ) -> None:
        clock = parts.clock
        self.to_board = Link(parts.random, NEWS_TIMEOUT_S)
        self.to_auth = Link(parts.random, AUTH_TIMEOUT_S)
        news = NewsOverLink(self.to_board, parts.board, clock)
        calls = AuthCalls(clock, timeout_s=AUTH_TIMEOUT_S)
        tokens = CachedTokens(
            TokensOverLink(self.to_auth, verify_token),
            news,
            FreshCache(Kind.TOKENS, {}, token_lifetimes(clock, while_source_is_down_s=300), clock, Silent()),
            calls,
        )
        agents = CachedAgents(
            AgentsOverLink(self.to_auth, verify_agent),
            FreshCache(Kind.AGENTS, {}, agent_lifetimes(while_source_is_down_s=300), clock, Silent(), absent={}),
            calls,
        )
        self.admit = AdmitCaller(tokens, agents, news, RefusedRequests(default_rpm=0), default_rpm=0)
