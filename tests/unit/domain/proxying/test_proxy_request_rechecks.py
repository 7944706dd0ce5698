"""Token, agent and directive are validated again before the provider is called (ADR 0045)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from harness.chat_scene import AGENT, ORG, ChatScene, chat_request
from ibex.domain.errors import (
    AgentSourceUnavailableError,
    AgentSuspendedError,
    ErrorCode,
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.proxying.provider import ProviderBody
from ibex.domain.proxying.proxy_request import BufferedResponse, RefusedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.proxying.proxy_request import ProxyRequest

ANSWER = ProviderBody(
    b'{"id": "c-1", "model": "gpt-4o",'
    b' "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}]}'
)
SUSPENDED = Agent(AGENT, ORG, AgentStatus.SUSPENDED)
A_MINUTE = timedelta(minutes=1)


class Scene(ChatScene):
    """A chat call whose token, agent and directive are cached, and whose body takes as long as the test sets."""

    def __init__(self) -> None:
        super().__init__(ANSWER, chat_request())
        self.complete: ProxyRequest = self.use_case()

    @classmethod
    async def warm(cls) -> Scene:
        """Return a scene in which one call was served. The scene has no record of it."""
        scene = cls()
        assert isinstance(await scene.complete(scene.call()), BufferedResponse)
        scene.tokens.asked.clear()
        scene.agents.asked.clear()
        scene.directives.asked.clear()
        scene.provider.asked.clear()
        scene.rate_limiter.asked.clear()
        scene.observer.exchanges.clear()
        scene.journal.kept.clear()
        return scene

    async def refused(self) -> RefusedResponse:
        """Make the call, which must be refused and recorded before the provider is called."""
        reply = await self.complete(self.call())
        assert isinstance(reply, RefusedResponse)
        assert self.provider.asked == []
        assert self.exchange.error_code is reply.error.code
        assert self.journaled
        assert not self.exchange.reached_provider
        return reply

    async def answered(self) -> BufferedResponse:
        """Make the call, which must be served."""
        reply = await self.complete(self.call())
        assert isinstance(reply, BufferedResponse)
        assert len(self.provider.asked) == 1
        return reply


def invalidate_by_event(scene: Scene) -> None:
    """Receive the event of a change of token and agent."""
    scene.caches.event(Kind.TOKENS)
    scene.caches.event(Kind.AGENTS)


def replace_the_epoch(scene: Scene) -> None:
    """Change the epoch in Redis as a change does."""
    scene.epochs.become({ORG: "another"})


@pytest.mark.parametrize(
    ("tell", "body_takes"),
    [
        pytest.param(lambda _: None, A_MINUTE, id="nothing tells of it, and the body takes a minute"),
        pytest.param(replace_the_epoch, A_MINUTE, id="the epoch tells of it, and the body takes a minute"),
        pytest.param(invalidate_by_event, A_MINUTE, id="an event tells of it, and the body takes a minute"),
        pytest.param(replace_the_epoch, timedelta(seconds=1.001), id="the epoch tells of it, after a second"),
        pytest.param(invalidate_by_event, timedelta(), id="an event tells of it, at once"),
    ],
)
@pytest.mark.parametrize(("change", "error"), [("token", InvalidTokenError), ("agent", AgentSuspendedError)])
async def test_a_revocation_during_the_body_is_refused_before_the_provider_is_called(
    tell: Callable[[Scene], None], body_takes: timedelta, change: str, error: type[Exception]
) -> None:
    """It can be that of a token or an agent, and the worker can learn of it in any way."""
    scene = await Scene.warm()

    def meanwhile() -> None:
        if change == "token":
            scene.tokens.answer = InvalidTokenError()
        else:
            scene.agents.answer = SUSPENDED
        tell(scene)
        scene.clock.advance(body_takes)

    scene.body.on_asked = meanwhile
    reply = await scene.refused()

    assert isinstance(reply.error, error)
    assert scene.directives.asked == []


async def test_a_request_with_a_slow_body_succeeds_if_nothing_changed() -> None:
    """Token and agent are fetched once more, and the request is counted once."""
    scene = await Scene.warm()
    counted = len(scene.rate_limiter.counted)
    scene.body.on_asked = lambda: scene.clock.advance(A_MINUTE)

    await scene.answered()

    assert (len(scene.tokens.asked), len(scene.agents.asked)) == (1, 1)
    assert (len(scene.rate_limiter.counted) - counted, scene.rate_limiter.asked) == (1, [ORG])


async def test_a_quick_body_causes_no_second_round_trip() -> None:
    """No epoch is read and nothing is fetched a second time."""
    scene = await Scene.warm()

    await scene.answered()

    assert (scene.tokens.asked, scene.agents.asked, scene.directives.asked) == ([], [], [])
    assert scene.rate_limiter.asked == []


async def test_the_directive_is_the_one_in_force_after_the_body() -> None:
    """It is looked up with the epoch that was read after the body."""
    scene = await Scene.warm()

    def meanwhile() -> None:
        scene.directives.answer = None
        replace_the_epoch(scene)
        scene.clock.advance(timedelta(seconds=2))

    scene.body.on_asked = meanwhile
    await scene.answered()

    assert scene.directives.asked == [(ORG, AGENT)]
    assert scene.provider.asked[0].body == chat_request().body


async def test_a_directive_that_an_event_changes_during_the_body_is_looked_up_again() -> None:
    """The epoch was read a moment ago, so only the event reveals the change."""
    scene = await Scene.warm()

    def meanwhile() -> None:
        scene.directives.answer = None
        scene.caches.event(Kind.DIRECTIVES)

    scene.body.on_asked = meanwhile
    await scene.answered()

    assert scene.directives.asked == [(ORG, AGENT)]
    assert scene.provider.asked[0].body == chat_request().body


async def test_a_revocation_during_the_lookup_of_the_directive_is_refused() -> None:
    """The lookup can be slow as well, so the last check follows it."""
    scene = Scene()  # nothing is cached: the directive is fetched

    def meanwhile() -> None:
        scene.tokens.answer = InvalidTokenError()
        invalidate_by_event(scene)

    scene.directives.on_asked = meanwhile
    reply = await scene.refused()

    assert isinstance(reply.error, InvalidTokenError)
    assert scene.directives.asked == [(ORG, AGENT)]


@pytest.mark.parametrize("silent", [True, False])
async def test_an_outage_during_the_body_never_causes_a_401(*, silent: bool) -> None:
    """Without auth the response is 503. If only auth's database is down, the request is served stale."""
    scene = await Scene.warm()

    def meanwhile() -> None:
        scene.tokens.answer = ServiceDegradedError() if silent else TokenSourceUnavailableError()
        scene.agents.answer = AgentSourceUnavailableError()
        scene.clock.advance(A_MINUTE)

    scene.body.on_asked = meanwhile
    if silent:
        assert (await scene.refused()).error.code is ErrorCode.SERVICE_DEGRADED
        return
    reply = await scene.answered()
    assert reply.in_flight.auth_stale


async def test_a_refusal_does_not_affect_the_next_request() -> None:
    """The agent was suspended and is active again."""
    scene = await Scene.warm()

    def meanwhile() -> None:
        scene.agents.answer = SUSPENDED
        scene.clock.advance(A_MINUTE)

    scene.body.on_asked = meanwhile
    await scene.refused()
    scene.body.on_asked = lambda: None
    scene.agents.answer = Agent(AGENT, ORG, AgentStatus.ACTIVE)
    replace_the_epoch(scene)
    scene.caches.event(Kind.AGENTS)

    await scene.answered()
