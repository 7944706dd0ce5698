"""Routes that need a token but are not operations: the models that are routed, and the probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from litestar import Request, Response, get
from litestar.params import FromPath, HeaderParameter

from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.adapters.http_server.openapi import AGENT_ERRORS, CALLER_ERRORS, error_responses
from ibex.adapters.http_server.representations import Model, ModelList, ProbeResult
from ibex.domain.errors import ErrorCode, InternalError, ProviderNotConfiguredError
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar.handlers import HTTPRouteHandler

    from ibex.domain.clock import Clock
    from ibex.domain.proxying.admission import Admission, Credentials
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.model_list import RoutedModel, RoutedModels

PROBE_PATH: Final = "/v1/internal/auth-probe"
PROBE_PATH_OF_ORG: Final = "/v1/orgs/{org_id:str}/auth-probe"
MODELS_PATH: Final = "/v1/models"
MODEL_PATH: Final = "/v1/models/{model_id:path}"
_AGENT_HEADER: Final = HeaderParameter(
    name="X-IBEX-Agent-ID", description="The agent's id. Required unless the token is bound to an agent."
)


class CallerRoutes:
    """Handlers that raise the refusals of ``Admission``. They record no exchange."""

    def __init__(self, admission: Admission, models: RoutedModels, clock: Clock, capacity: Capacity) -> None:
        self._admission = admission
        self._capacity = capacity
        self._models = models
        self._clock = clock

    def handlers(self) -> Sequence[HTTPRouteHandler]:
        """Return the handlers."""

        @get(
            PROBE_PATH,
            summary="Authenticate, verify the agent, count the request.",
            responses=error_responses(*AGENT_ERRORS),
        )
        async def probe(
            request: Request[Any, Any, Any],
            agent_id: Annotated[str | None, _AGENT_HEADER] = None,  # noqa: ARG001 - for the document
        ) -> Response[ProbeResult]:
            return await self._probe(request.scope)

        @get(
            PROBE_PATH_OF_ORG,
            summary="Authenticate, verify the agent, count the request.",
            responses=error_responses(*AGENT_ERRORS, ErrorCode.NOT_FOUND),
        )
        async def probe_of_org(
            request: Request[Any, Any, Any],
            org_id: FromPath[str],  # noqa: ARG001 - for the document
            agent_id: Annotated[str | None, _AGENT_HEADER] = None,  # noqa: ARG001 - for the document
        ) -> Response[ProbeResult]:
            return await self._probe(request.scope)

        @get(
            MODELS_PATH,
            summary="List the provider's models that are routed.",
            responses=error_responses(*CALLER_ERRORS),
        )
        async def models(request: Request[Any, Any, Any]) -> Response[ModelList]:
            in_flight = await self._authenticated(request.scope)
            found = await self._models.all()
            return Response(ModelList([_described(model) for model in found]), headers=_headers(in_flight))

        @get(
            MODEL_PATH,
            summary="Describe one of these models.",
            responses=error_responses(*CALLER_ERRORS, ErrorCode.NOT_FOUND, ErrorCode.PROVIDER_NOT_CONFIGURED),
        )
        async def model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[Model]:
            return await self._describe(request.scope, model_id.removeprefix("/"))

        return [probe, probe_of_org, models, model]

    async def _probe(self, scope: Mapping[str, Any]) -> Response[ProbeResult]:
        in_flight = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admission(_credentials(scope), in_flight)
        finally:
            self._capacity.end_authentication()
        caller = in_flight.caller
        if caller is None or caller.agent_id is None:
            raise InternalError
        return Response(ProbeResult(caller.org_id, caller.agent_id), headers=_headers(in_flight))

    async def _describe(self, scope: Mapping[str, Any], name: str) -> Response[Model]:
        in_flight = await self._authenticated(scope)
        try:
            found = await self._models.find(name)
        except ProviderNotConfiguredError as unknown:
            self._admission.note_refusal(in_flight, unknown)
            raise
        return Response(_described(found), headers=_headers(in_flight))

    async def _authenticated(self, scope: Mapping[str, Any]) -> InFlightExchange:
        in_flight = self._begin(scope)
        self._capacity.begin_authentication()
        try:
            await self._admission.authenticate(_credentials(scope), in_flight)
        finally:
            self._capacity.end_authentication()
        return in_flight

    def _begin(self, scope: Mapping[str, Any]) -> InFlightExchange:
        context = context_of(scope)
        context.in_flight = InFlightExchange.begin(self._clock, context.request_id, context.trace_id)
        return context.in_flight


def _credentials(scope: Mapping[str, Any]) -> Credentials:
    return context_of(scope).credentials(scope.get("path_params", {}).get("org_id"))


def _described(model: RoutedModel) -> Model:
    return Model(model.id, model.created, model.owned_by)


def _headers(in_flight: InFlightExchange) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("ascii") for name, value in exchange_headers(in_flight)}
