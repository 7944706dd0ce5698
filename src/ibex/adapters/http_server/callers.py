"""Routes that need a caller and no completion: the models that are routed, and the probe of everything before one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.domain.errors import NotFoundError, ProviderNotConfiguredError
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import Receive, Scope, Send
    from ibex.domain.clock import Clock
    from ibex.domain.proxying.admission import Admission
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.provider import ProviderRegistry


class CallerRoutes:
    """ASGI applications that raise the refusals of ``Admission``. None of them leaves an exchange on record."""

    def __init__(self, admit: Admission, providers: ProviderRegistry, clock: Clock, capacity: Capacity) -> None:
        self._admission = admit
        self._capacity = capacity
        self._providers = providers
        self._clock = clock
        self._since_unix_s = int(clock.now().timestamp())

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, check the agent, count the request; and nothing else."""
        in_flight = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admission(context_of(scope).credentials(scope), in_flight)
        finally:
            self._capacity.end_authentication()
        caller = in_flight.caller
        answer = {"status": "ok", "org_id": caller and caller.org_id, "agent_id": caller and caller.agent_id}
        await _answer(answer, in_flight)(scope, receive, send)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List what is routed, in OpenAI's shape. A pattern stands for itself."""
        in_flight = await self._authenticated(scope)
        models = [self._model(pattern, provider) for pattern, provider in self._providers.patterns]
        await _answer({"object": "list", "data": models}, in_flight)(scope, receive, send)

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Describe one model that is routed. Raises ``NotFoundError`` for all others."""
        in_flight = await self._authenticated(scope)
        name = scope["path_params"]["model_id"].removeprefix("/")
        try:
            provider = self._providers.route(name)
        except ProviderNotConfiguredError:
            unknown = NotFoundError("No provider serves this model.")
            self._admission.note_refusal(in_flight, unknown)
            raise unknown from None
        await _answer(self._model(name, provider.name), in_flight)(scope, receive, send)

    async def _authenticated(self, scope: Scope) -> InFlightExchange:
        in_flight = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admission.authenticate(context_of(scope).credentials(scope), in_flight)
        finally:
            self._capacity.end_authentication()
        return in_flight

    def _begin(self, scope: Scope) -> InFlightExchange:
        context = context_of(scope)
        context.in_flight = InFlightExchange.begin(self._clock, context.request_id, context.trace_id)
        return context.in_flight

    def _model(self, name: str, owner: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since_unix_s, "owned_by": owner}


def _answer(content: dict[str, Any], in_flight: InFlightExchange) -> Response:
    return Response(200, JSON, msgspec.json.encode(content), exchange_headers(in_flight))
