"""The object graph: adapters by environment, and the one application that takes either.

Every provider is synchronous and constructs its object once; opening and closing is ``lifespan``'s.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from dependency_injector import containers, providers

from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.adapters.http.app import create_app
from ibex.adapters.http.client import Limits
from ibex.adapters.http.drain import Drain
from ibex.adapters.http.errors import status_of
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.known_tokens import NoFilter
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.echo import EchoProvider
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.openai.transport import default_transport
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.outbox import PostgresOutbox
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.deliveries import DeliveryTelemetry
from ibex.adapters.telemetry.freshness import CacheTelemetry, LeaseTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.requests import RequestTelemetry
from ibex.domain.admit_caller import AdmitCaller
from ibex.domain.cached_identity import (
    CachedAgents,
    CachedDirectives,
    CachedTokens,
    agent_lifetimes,
    directive_lifetimes,
    token_lifetimes,
)
from ibex.domain.complete_chat import CompleteChat
from ibex.domain.deliver_exchanges import CheckpointDelivery, DeliverExchanges, TraceDelivery
from ibex.domain.fresh_cache import FreshCache
from ibex.domain.freshness import Kind
from ibex.domain.keep_fresh import AnnounceAtOnce, KeepFresh
from ibex.domain.manage_directives import ManageDirectives
from ibex.domain.manage_identity import ManageIdentity, VerifyAgent, VerifyToken
from ibex.domain.providers import ProviderRegistry
from ibex.domain.settle_exchange import SettleExchange
from ibex.domain.token_hash import TokenPeppers
from ibex.entrypoints.checks import readiness_checks
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from ibex.domain.clock import Clock
    from ibex.domain.settle_exchange import ExchangeObserver
    from ibex.entrypoints.setting_values import Secret
    from ibex.entrypoints.settings import Settings


def _database(url: Secret[str], role: str) -> Database:
    return Database(url.reveal(), role)


def _peppers(peppers: Secret[dict[str, bytes]]) -> TokenPeppers:
    return TokenPeppers(peppers.reveal())


def _traces(url: Secret[str]) -> ClickHouseTraces:
    return ClickHouseTraces(url.reveal())


def _providers(settings: Settings, transport: httpx.AsyncBaseTransport, clock: Clock) -> ProviderRegistry:
    """Route the configured models to OpenAI's API or, without a key, to the echo."""
    key = settings.openai_api_key
    if key is None:
        return ProviderRegistry([EchoProvider(clock, settings.openai_models, first_byte_delay_s=settings.echo_delay_s)])
    return ProviderRegistry([OpenAIProvider(_openai_config(settings, key.reveal()), transport, clock)])


def _openai_config(settings: Settings, key: str) -> OpenAIConfig:
    try:
        api_key = ApiKey(key)
    except ValueError as wrong:
        raise SettingsError(f"OPENAI_API_KEY cannot be used: {wrong}.") from None
    try:
        return OpenAIConfig(
            api_key=api_key,
            base_url=settings.openai_base_url,
            models=settings.openai_models,
            request_timeout_s=settings.openai_request_timeout_s,
            connect_timeout_s=settings.openai_connect_timeout_s,
            first_byte_timeout_s=settings.openai_first_byte_timeout_s,
            idle_timeout_s=settings.openai_idle_timeout_s,
            max_retries=settings.openai_max_retries,
            retry_base_delay_s=settings.openai_retry_base_delay_s,
            stream_usage=settings.openai_stream_usage,
        )
    except ValueError as wrong:
        raise SettingsError(f"OPENAI_BASE_URL cannot be used: {wrong}.") from None


def _all_observers(telemetry: RequestTelemetry, more: Sequence[ExchangeObserver]) -> Sequence[ExchangeObserver]:
    return (telemetry, *more)


def _lru(size: int) -> LRUCache[Any, Any]:
    return LRUCache(size)


def _announce_at_once(board: InMemoryBoard, keep_fresh: KeepFresh) -> AnnounceAtOnce:
    return AnnounceAtOnce(board, keep_fresh.announcement_failed)


class EmbeddedAdapters(containers.DeclarativeContainer):
    """One process with its identity next to it: PostgreSQL and ClickHouse by URL, the rest in memory (ADR 0009)."""

    settings: providers.Dependency[Settings] = providers.Dependency()
    clock = providers.Singleton(SystemClock)
    ids = providers.Singleton(SystemIds)

    traces = providers.Singleton(_traces, settings.provided.clickhouse_url)
    journal = providers.Singleton(
        SqliteJournal,
        settings.provided.journal_dir,
        ids,
        sync=settings.provided.journal_sync.value,
        max_bytes=settings.provided.journal_max_bytes,
    )
    metrics = providers.Singleton(Metrics, clock, journal.provided.depth)

    database = providers.Singleton(_database, settings.provided.database_url, APP_ROLE)
    directives = providers.Singleton(PostgresDirectives, database)
    sessions = providers.Singleton(PostgresSessions, database)

    identity_database = providers.Singleton(_database, settings.provided.auth_database_url, AUTH_ROLE)
    identity = providers.Singleton(PostgresIdentity, identity_database)
    peppers = providers.Singleton(_peppers, settings.provided.token_peppers)
    token_verifier = providers.Singleton(VerifyToken, identity, peppers, clock)
    agent_verifier = providers.Singleton(VerifyAgent, identity)

    board = providers.Singleton(InMemoryBoard, clock, ids)
    rate_limiter = providers.Singleton(InMemoryRateLimiter, board.provided.news)
    known_tokens = providers.Singleton(NoFilter)
    keep_fresh = providers.Singleton(
        KeepFresh,
        providers.Singleton(PostgresOutbox, identity_database),
        board,
        providers.Singleton(LeaseTelemetry, metrics.provided.registry, "proxy"),
    )
    announcements = providers.Singleton(_announce_at_once, board, keep_fresh)

    transport = providers.Singleton(default_transport)
    completion_providers = providers.Singleton(_providers, settings, transport, clock)

    resources = providers.List(identity_database, database, traces, journal)
    background = providers.List(keep_fresh)
    checks = providers.Callable(readiness_checks, identity_database, database, traces)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_request_body_bytes=settings.max_request_body_bytes,
        client_stall_timeout_s=settings.client_stall_timeout_s,
    )


class Application(containers.DeclarativeContainer):
    """The use cases over one environment's adapters, and the ASGI application over those.

    ``observers`` hear of exchanges besides logs and metrics.
    """

    settings: providers.Dependency[Settings] = providers.Dependency()
    adapters = providers.DependenciesContainer()
    observers = providers.Object(())

    request_telemetry = providers.Singleton(RequestTelemetry, adapters.metrics)
    delivery_telemetry = providers.Singleton(DeliveryTelemetry, adapters.metrics)
    cache_telemetry = providers.Singleton(CacheTelemetry, adapters.metrics.provided.registry)
    drain = providers.Singleton(Drain)

    manage_identity = providers.Singleton(
        ManageIdentity, adapters.identity, adapters.peppers, adapters.announcements, adapters.clock, adapters.ids
    )
    manage_directives = providers.Singleton(
        ManageDirectives, adapters.directives, adapters.announcements, adapters.clock, adapters.ids
    )

    settle_exchange = providers.Singleton(
        SettleExchange,
        adapters.journal,
        providers.Callable(_all_observers, request_telemetry, observers),
        adapters.ids,
        providers.Object(status_of),
    )
    cached_tokens = providers.Singleton(
        CachedTokens,
        adapters.token_verifier,
        adapters.known_tokens,
        providers.Singleton(
            FreshCache,
            Kind.TOKENS,
            providers.Singleton(_lru, settings.provided.auth_cache_size),
            providers.Singleton(
                token_lifetimes, adapters.clock, while_source_is_down_s=settings.provided.auth_stale_if_error_s
            ),
            adapters.clock,
            cache_telemetry,
        ),
    )
    cached_agents = providers.Singleton(
        CachedAgents,
        adapters.agent_verifier,
        providers.Singleton(
            FreshCache,
            Kind.AGENTS,
            providers.Singleton(_lru, settings.provided.auth_cache_size),
            providers.Singleton(agent_lifetimes, while_source_is_down_s=settings.provided.auth_stale_if_error_s),
            adapters.clock,
            cache_telemetry,
        ),
    )
    cached_directives = providers.Singleton(
        CachedDirectives,
        adapters.directives,
        providers.Singleton(
            FreshCache,
            Kind.DIRECTIVES,
            providers.Singleton(_lru, settings.provided.auth_cache_size),
            providers.Singleton(directive_lifetimes, settings.provided.directive_cache_ttl_s),
            adapters.clock,
            cache_telemetry,
        ),
    )
    admit_caller = providers.Singleton(
        AdmitCaller,
        cached_tokens,
        cached_agents,
        adapters.rate_limiter,
        default_rpm=settings.provided.rate_limit_default_rpm,
    )
    complete_chat = providers.Singleton(
        CompleteChat,
        admit_caller,
        cached_directives,
        adapters.completion_providers,
        settle_exchange,
        adapters.clock,
        adapters.ids,
    )
    checkpoint_delivery = providers.Singleton(
        DeliverExchanges,
        adapters.journal,
        providers.Factory(CheckpointDelivery, adapters.sessions),
        delivery_telemetry,
        adapters.clock,
        jitter=providers.Object(random.random),
    )
    trace_delivery = providers.Singleton(
        DeliverExchanges,
        adapters.journal,
        providers.Factory(TraceDelivery, adapters.traces),
        delivery_telemetry,
        adapters.clock,
        jitter=providers.Object(random.random),
    )
    deliveries = providers.List(checkpoint_delivery, trace_delivery)

    app = providers.Singleton(
        create_app,
        complete_chat=complete_chat,
        admit_caller=admit_caller,
        providers=adapters.completion_providers,
        clock=adapters.clock,
        ids=adapters.ids,
        render_metrics=adapters.metrics.provided.render,
        readiness_checks=adapters.checks,
        drain=drain,
        observer=request_telemetry,
        limits=providers.Callable(_limits, settings),
        error_docs_base=settings.provided.error_docs_base,
    )


def application_of(
    adapters: containers.DeclarativeContainer, settings: Settings, observers: Sequence[ExchangeObserver] = ()
) -> Application:
    """Return the application over an environment's adapters, complete: raises what the container finds missing."""
    adapters.settings.override(settings)
    application = Application(adapters=adapters)
    application.settings.override(settings)
    application.observers.override(observers)
    adapters.check_dependencies()
    application.check_dependencies()
    return application
