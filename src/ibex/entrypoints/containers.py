"""The object graph: the use cases over the adapters of one environment (``environments``), and the ASGI application.

Every provider is synchronous and constructs its object once. ``lifespan`` opens and closes the objects.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache
from dependency_injector import containers, providers

from ibex.adapters.http_server.app import create_app, create_ops_app
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.drain import Drain
from ibex.adapters.http_server.errors import status_of
from ibex.adapters.telemetry.caches import InstrumentedCache
from ibex.adapters.telemetry.capacity import CapacityTelemetry
from ibex.adapters.telemetry.deliveries import DeliveryTelemetry
from ibex.adapters.telemetry.model_lists import ModelListTelemetry
from ibex.adapters.telemetry.requests import RequestTelemetry
from ibex.adapters.telemetry.sweeps import SweepTelemetry
from ibex.domain.directives.cache import CachedDirectives, directive_policy
from ibex.domain.directives.management import ManageDirectives
from ibex.domain.freshness.cache import FreshCache
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokenFilter
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import Watch
from ibex.domain.identity.auth_calls import AuthCalls
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.management import ManageIdentity
from ibex.domain.proxying.admission import Admission
from ibex.domain.proxying.capacity import Capacity
from ibex.domain.proxying.model_list import RoutedModels
from ibex.domain.proxying.proxy_request import ProxyRequest
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.delivery import CheckpointDelivery, DeliverExchanges, TraceDelivery
from ibex.domain.record.idle_sessions import AbandonIdleSessions
from ibex.domain.record.orphaned_journals import RecoverJournals
from ibex.domain.record.received_responses import ReceivedResponses
from ibex.domain.record.recorder import Recorder
from ibex.entrypoints.operations import OPERATIONS
from ibex.entrypoints.tracing import request_observer, span_export

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.adapters.telemetry.metrics import Metrics
    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock
    from ibex.domain.record.journal import Journal
    from ibex.domain.record.recorder import ExchangeObserver
    from ibex.domain.record.sessions import SessionStore
    from ibex.domain.record.traces import TraceSink
    from ibex.entrypoints.settings import Settings

_MORE_AUTHENTICATING: Final = 1_000
"""The number of concurrent authentications beyond the number of request slots (ADR 0042)."""


def _all_observers(telemetry: RequestTelemetry, more: Sequence[ExchangeObserver]) -> Sequence[ExchangeObserver]:
    return (telemetry, *more)


class _Deliveries:
    """A factory of the deliveries of a journal, one for each sink."""

    def __init__(self, sessions: SessionStore, traces: TraceSink, telemetry: DeliveryTelemetry, clock: Clock) -> None:
        self._sinks = (CheckpointDelivery(sessions), TraceDelivery(traces))
        self._telemetry = telemetry
        self._clock = clock

    def __call__(self, journal: Journal) -> Sequence[DeliverExchanges]:
        return [
            DeliverExchanges(journal, sink, self._telemetry, self._clock, jitter=random.random) for sink in self._sinks
        ]


def _deliveries(make: _Deliveries, journal: Journal) -> Sequence[DeliverExchanges]:
    return make(journal)


def _absent_agents(cache_size: int) -> LRUCache[Any, Any]:
    """Return a separate cache for absent agents, so that they never evict the entry of a live agent."""
    return LRUCache(max(1, cache_size // 4))


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_request_body_bytes=settings.max_request_body_bytes,
        body_silence_s=settings.header_timeout_s,
    )


def _capacity(settings: Settings, registry: Registry) -> Capacity:
    """Return the worker's capacity, with its metrics."""
    capacity = Capacity(
        slots=settings.max_concurrency,
        body_bytes=settings.body_budget_bytes,
        max_authenticating=settings.max_concurrency + _MORE_AUTHENTICATING,
    )
    CapacityTelemetry(registry, capacity)
    return capacity


def _public_metrics(settings: Settings, metrics: Metrics) -> Callable[[], tuple[bytes, str]] | None:
    """Return the function that renders the metrics for the proxy's own address, None if it does not serve them."""
    return metrics.render if settings.ops_listen is None else None


class Application(containers.DeclarativeContainer):
    """The use cases over one environment's adapters, and the ASGI application.

    ``observers`` receive each recorded exchange, in addition to logs and metrics.
    """

    settings: providers.Dependency[Settings] = providers.Dependency()
    adapters = providers.DependenciesContainer()
    observers = providers.Object(())

    request_telemetry = providers.Singleton(RequestTelemetry, adapters.metrics)
    span_export = providers.Singleton(span_export, settings, adapters.registry, adapters.clock)
    request_observer = providers.Singleton(request_observer, request_telemetry, span_export, settings, adapters.clock)
    delivery_telemetry = providers.Singleton(DeliveryTelemetry, adapters.metrics)
    drain = providers.Singleton(Drain)

    received_responses = providers.Singleton(ReceivedResponses, adapters.sessions, adapters.shared_responses)
    recorder = providers.Singleton(
        Recorder,
        adapters.journal,
        providers.Callable(_all_observers, request_telemetry, observers),
        adapters.ids,
        providers.Object(status_of),
        received_responses.provided.remember,
    )
    auth_calls = providers.Singleton(
        AuthCalls,
        adapters.clock,
        timeout_s=settings.provided.auth_timeout_s,
        refused=adapters.cache_telemetry.provided.call_refused,
    )
    validity = providers.Singleton(Validity)
    token_filter = providers.Singleton(TokenFilter, adapters.live_tokens, adapters.ids.provided.secret.call())
    watch = providers.Singleton(
        Watch,
        adapters.watch_connector,
        validity,
        adapters.clock,
        providers.Object(random.random),
        providers.List(token_filter, adapters.watch_telemetry),
    )
    unknown_tokens = providers.Singleton(
        UnknownTokens, token_filter, watch, adapters.clock, adapters.cache_telemetry.provided.filtered
    )
    cached_tokens = providers.Singleton(
        CachedTokens,
        adapters.token_verifier,
        unknown_tokens,
        providers.Singleton(
            FreshCache,
            Kind.TOKENS,
            providers.Singleton(
                InstrumentedCache, settings.provided.auth_cache_size, Kind.TOKENS, adapters.cache_telemetry
            ),
            providers.Singleton(token_policy, stale_if_error_s=settings.provided.auth_stale_if_error_s),
            validity,
            adapters.clock,
            adapters.cache_telemetry,
        ),
        auth_calls,
    )
    cached_agents = providers.Singleton(
        CachedAgents,
        adapters.agent_verifier,
        providers.Singleton(
            FreshCache,
            Kind.AGENTS,
            providers.Singleton(
                InstrumentedCache, settings.provided.auth_cache_size, Kind.AGENTS, adapters.cache_telemetry
            ),
            providers.Singleton(agent_policy, stale_if_error_s=settings.provided.auth_stale_if_error_s),
            validity,
            adapters.clock,
            adapters.cache_telemetry,
            absent=providers.Singleton(_absent_agents, settings.provided.auth_cache_size),
        ),
        auth_calls,
        adapters.clock,
    )
    refused_requests = providers.Singleton(RefusedRequests, default_rpm=settings.provided.rate_limit_default_rpm)
    cached_directives = providers.Singleton(
        CachedDirectives,
        adapters.directives,
        adapters.shared_directives,
        providers.Singleton(
            FreshCache,
            Kind.DIRECTIVES,
            providers.Singleton(
                InstrumentedCache, settings.provided.auth_cache_size, Kind.DIRECTIVES, adapters.cache_telemetry
            ),
            providers.Singleton(
                directive_policy,
                settings.provided.directive_cache_ttl_s,
                last_known_s=settings.provided.directive_stale_if_error_s,
            ),
            validity,
            adapters.clock,
            adapters.cache_telemetry,
        ),
        validity,
        adapters.clock,
        shared_ttl_s=settings.provided.directive_cache_ttl_s,
    )
    admission = providers.Singleton(
        Admission,
        cached_tokens,
        cached_agents,
        adapters.rate_limiter,
        refused_requests,
        default_rpm=settings.provided.rate_limit_default_rpm,
        refusal_delay_s=settings.provided.refusal_delay_s,
    )
    proxy_request = providers.Singleton(
        ProxyRequest,
        admission,
        cached_directives,
        adapters.directives,
        received_responses,
        adapters.provider_registry,
        recorder,
        adapters.clock,
        adapters.ids,
    )
    deliveries_of = providers.Singleton(
        _Deliveries, adapters.sessions, adapters.traces, delivery_telemetry, adapters.clock
    )
    deliveries = providers.Singleton(_deliveries, deliveries_of, adapters.journal)
    recover_journals = providers.Singleton(RecoverJournals, adapters.orphaned_journals, recorder, deliveries_of)
    abandon_idle_sessions = providers.Singleton(
        AbandonIdleSessions,
        adapters.sessions,
        adapters.clock,
        providers.Singleton(SweepTelemetry, adapters.registry),
        idle_s=settings.provided.session_idle_timeout_s,
    )

    operations = providers.Object(OPERATIONS)
    limits = providers.Singleton(_limits, settings)
    capacity = providers.Singleton(_capacity, settings, adapters.registry)
    models = providers.Singleton(
        RoutedModels, adapters.provider_registry, adapters.clock, providers.Singleton(ModelListTelemetry)
    )
    app = providers.Singleton(
        create_app,
        operations=operations,
        proxy_request=proxy_request,
        admission=admission,
        models=models,
        clock=adapters.clock,
        ids=adapters.ids,
        render_metrics=providers.Callable(_public_metrics, settings, adapters.metrics),
        readiness_checks=adapters.checks,
        drain=drain,
        observer=request_observer,
        limits=limits,
        capacity=capacity,
        error_docs_base=settings.provided.error_docs_base,
        base_path=settings.provided.base_path,
        cors_origins=settings.provided.cors_origins,
    )
    ops_app = providers.Singleton(
        create_ops_app,
        clock=adapters.clock,
        ids=adapters.ids,
        render_metrics=adapters.metrics.provided.render,
        readiness_checks=adapters.checks,
        drain=drain,
        observer=request_observer,
    )


class Management(containers.DeclarativeContainer):
    """The administrative use cases over one environment's adapters."""

    adapters = providers.DependenciesContainer()

    identity = providers.Singleton(
        ManageIdentity, adapters.identity, adapters.peppers, adapters.epochs, adapters.clock, adapters.ids
    )
    directives = providers.Singleton(
        ManageDirectives, adapters.directives, adapters.epochs, adapters.clock, adapters.ids
    )


def application_of(
    adapters: containers.DeclarativeContainer, settings: Settings, observers: Sequence[ExchangeObserver] = ()
) -> Application:
    """Return the application over an environment's adapters.

    Raises dependency-injector's error if a dependency is undefined.
    """
    adapters.settings.override(settings)
    application = Application(adapters=adapters)
    application.settings.override(settings)
    application.observers.override(observers)
    adapters.check_dependencies()
    application.check_dependencies()
    return application
