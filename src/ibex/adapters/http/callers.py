"""Routes that need a caller and no completion: the models that are routed, and the probe of everything before one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ibex.adapters.http.asgi import JSON, Answer
from ibex.adapters.http.context import context_of
from ibex.adapters.http.exchange_headers import exchange_headers
from ibex.domain.errors import NotFoundError, ProviderNotConfiguredError
from ibex.domain.open_exchange import OpenExchange

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Receive, Scope, Send
    from ibex.domain.admit_caller import AdmitCaller
    from ibex.domain.clock import Clock
    from ibex.domain.fair_share import Capacity
    from ibex.domain.providers import ProviderRegistry


class CallerRoutes:
    """ASGI applications that raise the refusals of ``AdmitCaller``. None of them leaves an exchange on record."""

    def __init__(self, admit: AdmitCaller, providers: ProviderRegistry, clock: Clock, capacity: Capacity) -> None:
        self._admit = admit
        self._capacity = capacity
        self._providers = providers
        self._clock = clock
        self._since_unix_s = int(clock.now().timestamp())

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, check the agent, count the request; and nothing else."""
        notes = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admit(context_of(scope).credentials(scope), notes)
        finally:
            self._capacity.end_authentication()
        caller = notes.caller
        answer = {"status": "ok", "org_id": caller and caller.org_id, "agent_id": caller and caller.agent_id}
        await _answer(answer, notes)(scope, receive, send)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List what is routed, in OpenAI's shape. A pattern stands for itself."""
        notes = await self._authenticated(scope)
        models = [self._model(pattern, provider) for pattern, provider in self._providers.patterns]
        await _answer({"object": "list", "data": models}, notes)(scope, receive, send)

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Describe one model that is routed. Raises ``NotFoundError`` for all others."""
        notes = await self._authenticated(scope)
        name = scope["path_params"]["model_id"].removeprefix("/")
        try:
            provider = self._providers.route(name)
        except ProviderNotConfiguredError:
            unknown = NotFoundError("No provider serves this model.")
            self._admit.note_refusal(notes, unknown)
            raise unknown from None
        await _answer(self._model(name, provider.name), notes)(scope, receive, send)

    async def _authenticated(self, scope: Scope) -> OpenExchange:
        notes = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admit.authenticate(context_of(scope).credentials(scope), notes)
        finally:
            self._capacity.end_authentication()
        return notes

    def _begin(self, scope: Scope) -> OpenExchange:
        context = context_of(scope)
        context.notes = OpenExchange.begin(self._clock, context.request_id, context.trace_id)
        return context.notes

    def _model(self, name: str, owner: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since_unix_s, "owned_by": owner}


def _answer(content: dict[str, Any], notes: OpenExchange) -> Answer:
    return Answer(200, JSON, msgspec.json.encode(content), exchange_headers(notes))
