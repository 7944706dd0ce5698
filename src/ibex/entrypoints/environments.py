"""The adapters of each environment. Every environment uses the same names for the same ports.

Every provider is synchronous and constructs its object once. ``lifespan`` opens and closes the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dependency_injector import containers, providers

from ibex.adapters.grpc.verifiers import GrpcAgentVerifier, GrpcTokenVerifier
from ibex.adapters.grpc.watch_service import WatchService
from ibex.adapters.grpc.watch_streams import GrpcLiveTokens, GrpcWatch
from ibex.adapters.http_client.httpx_transport import httpx_transport
from ibex.adapters.http_client.transport import Http1Transport, default_transport
from ibex.adapters.http_server.openapi import operation_paths
from ibex.adapters.journal.directories import claim_any
from ibex.adapters.journal.orphaned_journals import OrphanedSqliteJournals
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.memory.epochs import NoEpochs
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.memory.shared_directives import NoSharedDirectives
from ibex.adapters.memory.shared_responses import NoSharedResponses
from ibex.adapters.memory.watch import InProcessWatch
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.echo import EchoProvider
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.postgres.change_log import PostgresChangeLog
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.redis.epochs import RedisEpochs
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.redis.shared_directives import RedisSharedDirectives
from ibex.adapters.redis.shared_responses import PURPOSE, RedisSharedResponses
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.caches import CacheTelemetry, InstrumentedSharedDirectives, InstrumentedTokenVerifier
from ibex.adapters.telemetry.calls_to_auth import AuthReplicaTelemetry, InstrumentedAgentVerifier
from ibex.adapters.telemetry.freshness import WatchTelemetry
from ibex.adapters.telemetry.journal import RecoveryTelemetry
from ibex.adapters.telemetry.loop_lag import LoopLag
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.ops import AuthMetrics
from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.round_trips import RateLimitTelemetry, RedisTelemetry
from ibex.domain.directives.seal import DIRECTIVES, Seal
from ibex.domain.freshness.change_log import PruneChanges, WatchServer
from ibex.domain.identity.management import VerifyAgent, VerifyToken
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.domain.proxying.provider import Dialect, ProviderRegistry
from ibex.entrypoints.auth_connection import auth_channel
from ibex.entrypoints.checks import Journals, auth_checks, readiness_checks
from ibex.entrypoints.openai_settings import StreamUsage, Transport
from ibex.entrypoints.operations import OPERATIONS
from ibex.entrypoints.server_clients import clickhouse_traces, postgres_database, redis_link, redis_link_if_any
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from ibex.adapters.grpc.channel import GrpcAuthChannel
    from ibex.adapters.redis.link import RedisLink
    from ibex.adapters.telemetry.journal import MeasuredJournal
    from ibex.domain.clock import Clock
    from ibex.domain.directives.shared import SharedDirectives
    from ibex.domain.freshness.epochs import Epochs
    from ibex.domain.ids import IdSource
    from ibex.domain.proxying.provider import Provider
    from ibex.domain.record.received_responses import SharedResponses
    from ibex.entrypoints.setting_values import Secret
    from ibex.entrypoints.settings import Settings


WATCH_POOL_SIZE: Final = 2
ADMINISTRATION_POOL_SIZE: Final = 4


def _peppers(peppers: Secret[dict[str, bytes]]) -> TokenPeppers:
    return TokenPeppers(peppers.reveal())


def _provider(settings: Settings, transport: httpx.AsyncBaseTransport, clock: Clock) -> Provider:
    """Return OpenAI or, without an API key, the echo provider."""
    key = settings.openai_api_key
    if key is None:
        return EchoProvider(clock, settings.openai_models, first_byte_delay_s=settings.echo_delay_s)
    return OpenAIProvider(_openai_config(settings, key.reveal()), transport, clock)


def _metrics(clock: Clock, journal: MeasuredJournal, registry: Registry, routed: ProviderRegistry) -> Metrics:
    """Return the metrics, with the series of each provider and each route of an operation."""
    routes = [path for operation in OPERATIONS for path in operation_paths(operation)]
    names = dict.fromkeys(name for _, name in routed.patterns)
    return Metrics(clock, journal, registry, providers=names, routes=routes)


def _transport(settings: Settings) -> Http1Transport | httpx.AsyncBaseTransport:
    chosen = settings.openai_transport
    if chosen is Transport.DIRECT:
        return default_transport(settings.openai_max_connections)
    try:
        return httpx_transport(
            settings.openai_base_url, settings.openai_max_connections, http2=chosen is Transport.HTTP2
        )
    except ImportError:
        raise SettingsError(
            "IBEX_OPENAI_TRANSPORT is 'http2', which needs `pip install ibex-harness[http2]`."
        ) from None
    except ValueError as wrong:
        raise SettingsError(f"IBEX_OPENAI_TRANSPORT is {chosen.value!r}, but {wrong}.") from None


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
            dialect=Dialect(
                asks_for_usage=settings.openai_stream_usage is StreamUsage.ON,
                merges_instructions=settings.openai_merge_instructions,
                has_lenient_end=settings.openai_lenient_end,
            ),
            headers=settings.extra_headers,
        )
    except ValueError as wrong:
        raise SettingsError(f"OPENAI_BASE_URL cannot be used: {wrong}.") from None


def _channel(settings: Settings, ids: IdSource, registry: Registry) -> GrpcAuthChannel:
    auth = auth_channel(settings, ids)
    AuthReplicaTelemetry(registry, lambda: auth.replicas)
    return auth


def _shared_directives(
    settings: Settings, link: RedisLink, clock: Clock, seal: Seal | None, on_unverified: Callable[[], None]
) -> SharedDirectives:
    if seal is None:
        return NoSharedDirectives()
    return RedisSharedDirectives(link, clock, seal, settings.directive_cache_ttl_s, on_unverified)


def _shared_responses(
    link: RedisLink, clock: Clock, seal: Seal | None, on_unverified: Callable[[], None]
) -> SharedResponses:
    return NoSharedResponses() if seal is None else RedisSharedResponses(link, clock, seal, on_unverified)


def sealing_secrets(settings: Settings) -> list[bytes]:
    """Return the secrets of entries in Redis: the first seals them, the others only open them.

    The list is empty if no secret is set.

    A service token that auth already accepts may seal entries of other proxies.
    """
    if settings.cache_key is not None:
        return [settings.cache_key.reveal().encode()]
    return [token.encode() for token in reversed(settings.service_tokens)]


def _seal(settings: Settings, purpose: bytes) -> Seal | None:
    secrets = sealing_secrets(settings)
    return Seal(secrets[0], purpose, *secrets[1:]) if secrets else None


def _operator_epochs(link: RedisLink | None, clock: Clock, ids: IdSource) -> Epochs:
    return NoEpochs(clock) if link is None else RedisEpochs(link, clock, ids)


class _Adapters(containers.DeclarativeContainer):
    settings: providers.Dependency[Settings] = providers.Dependency()
    clock = providers.Singleton(SystemClock)
    ids = providers.Singleton(SystemIds)


class _ProxyAdapters(_Adapters):
    traces = providers.Singleton(
        clickhouse_traces, _Adapters.settings.provided.clickhouse_url, _Adapters.settings.provided.clickhouse_cluster
    )
    journal = providers.Singleton(
        SqliteJournal,
        _Adapters.settings.provided.journal_dir,
        _Adapters.ids,
        sync=_Adapters.settings.provided.journal_sync.value,
        max_bytes=_Adapters.settings.provided.journal_max_bytes,
        claim=providers.Object(claim_any),
    )
    metric_segments = providers.Object(())
    own_segment = providers.Object(0)
    registry = providers.Singleton(Registry, "ibex_proxy_", metric_segments, own_segment)
    recovered = providers.Singleton(RecoveryTelemetry, registry).provided.searched
    orphaned_journals = providers.Singleton(
        OrphanedSqliteJournals, _Adapters.settings.provided.journal_dir, _Adapters.ids, recovered
    )
    cache_telemetry = providers.Singleton(CacheTelemetry, registry)
    watch_telemetry = providers.Singleton(WatchTelemetry, registry)
    loop_lag = providers.Singleton(LoopLag, registry, _Adapters.clock)

    database = providers.Singleton(postgres_database, _Adapters.settings, "database_url", APP_ROLE)
    directives = providers.Singleton(PostgresDirectives, database)
    sessions = providers.Singleton(PostgresSessions, database)

    transport = providers.Singleton(_transport, _Adapters.settings)
    provider = providers.Singleton(_provider, _Adapters.settings, transport, _Adapters.clock)
    provider_registry = providers.Singleton(ProviderRegistry, providers.List(provider))
    metrics = providers.Singleton(_metrics, _Adapters.clock, journal, registry, provider_registry)
    journals = providers.Singleton(Journals, journal, orphaned_journals)


class EmbeddedAdapters(_ProxyAdapters):
    """The adapters of a single process without auth and Redis, whose tasks are done in process (ADR 0009)."""

    identity_database = providers.Singleton(postgres_database, _Adapters.settings, "auth_database_url", AUTH_ROLE)
    identity = providers.Singleton(PostgresIdentity, identity_database)
    peppers = providers.Singleton(_peppers, _Adapters.settings.provided.token_peppers)
    epochs = providers.Singleton(NoEpochs, _Adapters.clock)
    token_verifier = providers.Singleton(VerifyToken, identity, peppers, epochs, _Adapters.clock)
    agent_verifier = providers.Singleton(VerifyAgent, identity, epochs)
    rate_limiter = providers.Singleton(InMemoryRateLimiter, epochs)
    shared_directives = providers.Singleton(NoSharedDirectives)
    shared_responses = providers.Singleton(NoSharedResponses)
    change_log = providers.Singleton(PostgresChangeLog, identity_database)
    live_tokens = providers.Singleton(PostgresChangeLog, identity_database)
    watch_server = providers.Singleton(WatchServer, change_log)
    watch_connector = providers.Singleton(InProcessWatch, watch_server)

    resources = providers.List(
        identity_database, _ProxyAdapters.database, _ProxyAdapters.traces, _ProxyAdapters.journal
    )
    background = providers.List(watch_server, providers.Singleton(PruneChanges, change_log), _ProxyAdapters.loop_lag)
    checks = providers.Callable(
        readiness_checks,
        auth=identity_database,
        postgres=_ProxyAdapters.database,
        clickhouse=_ProxyAdapters.traces,
        journal=_ProxyAdapters.journals,
    )


class ProductionAdapters(_ProxyAdapters):
    """The adapters of a production worker: auth over gRPC, Redis, PostgreSQL and ClickHouse."""

    channel = providers.Singleton(_channel, _Adapters.settings, _Adapters.ids, _ProxyAdapters.registry)
    token_verifier = providers.Singleton(
        InstrumentedTokenVerifier,
        providers.Singleton(GrpcTokenVerifier, channel, _Adapters.clock),
        _ProxyAdapters.cache_telemetry,
    )
    agents = providers.Singleton(GrpcAgentVerifier, channel, _Adapters.clock)
    agent_verifier = providers.Singleton(InstrumentedAgentVerifier, agents, _ProxyAdapters.cache_telemetry)
    watch_connector = providers.Singleton(GrpcWatch, channel)
    live_tokens = providers.Singleton(GrpcLiveTokens, channel)

    redis_telemetry = providers.Singleton(RedisTelemetry, _ProxyAdapters.registry)
    link = providers.Singleton(redis_link, _Adapters.settings, _Adapters.clock, redis_telemetry)
    rate_limit_telemetry = providers.Singleton(RateLimitTelemetry, _ProxyAdapters.registry)
    rate_limiter = providers.Singleton(
        RedisRateLimiter, link, _Adapters.clock, rate_limit_telemetry.provided.counted_in_process
    )
    directive_seal = providers.Singleton(_seal, _Adapters.settings, DIRECTIVES)
    response_seal = providers.Singleton(_seal, _Adapters.settings, PURPOSE)
    shared_directives = providers.Singleton(
        InstrumentedSharedDirectives,
        providers.Singleton(
            _shared_directives,
            _Adapters.settings,
            link,
            _Adapters.clock,
            directive_seal,
            _ProxyAdapters.cache_telemetry.provided.unverified,
        ),
        _ProxyAdapters.cache_telemetry,
    )
    shared_responses = providers.Singleton(
        _shared_responses,
        link,
        _Adapters.clock,
        response_seal,
        _ProxyAdapters.cache_telemetry.provided.unverified,
    )

    resources = providers.List(channel, link, _ProxyAdapters.database, _ProxyAdapters.traces, _ProxyAdapters.journal)
    background = providers.List(_ProxyAdapters.loop_lag)
    checks = providers.Callable(
        readiness_checks,
        auth=channel,
        redis=link,
        postgres=_ProxyAdapters.database,
        clickhouse=_ProxyAdapters.traces,
        journal=_ProxyAdapters.journals,
    )


class OperatorAdapters(_Adapters):
    """The adapters of the command line: identity, directives and the record, directly from the databases."""

    database = providers.Singleton(postgres_database, _Adapters.settings, "database_url", APP_ROLE)
    directives = providers.Singleton(PostgresDirectives, database)
    sessions = providers.Singleton(PostgresSessions, database)
    traces = providers.Singleton(
        clickhouse_traces, _Adapters.settings.provided.clickhouse_url, _Adapters.settings.provided.clickhouse_cluster
    )

    identity_database = providers.Singleton(postgres_database, _Adapters.settings, "auth_database_url", AUTH_ROLE)
    identity = providers.Singleton(PostgresIdentity, identity_database)
    peppers = providers.Singleton(_peppers, _Adapters.settings.provided.token_peppers)
    link = providers.Singleton(redis_link_if_any, _Adapters.settings, _Adapters.clock)
    epochs = providers.Singleton(_operator_epochs, link, _Adapters.clock, _Adapters.ids)

    resources = providers.List(identity_database, database, traces)


class AuthAdapters(_Adapters):
    """The adapters of the auth service: identity, the change log and the epochs.

    Validation, the watch and everything else have a database pool each. Neither administration nor workers that read
    all live tokens can use up the connections that validation and the watch need.
    """

    identity_database = providers.Singleton(postgres_database, _Adapters.settings, "auth_database_url", AUTH_ROLE)
    administration_database = providers.Singleton(
        postgres_database, _Adapters.settings, "auth_database_url", AUTH_ROLE, pool_size=ADMINISTRATION_POOL_SIZE
    )
    watch_database = providers.Singleton(
        postgres_database, _Adapters.settings, "auth_database_url", AUTH_ROLE, pool_size=WATCH_POOL_SIZE
    )
    peppers = providers.Singleton(_peppers, _Adapters.settings.provided.token_peppers)
    validated_identity = providers.Singleton(PostgresIdentity, identity_database)
    metrics = providers.Singleton(AuthMetrics)
    loop_lag = providers.Singleton(LoopLag, metrics.provided.registry, _Adapters.clock)
    redis_telemetry = providers.Singleton(RedisTelemetry, metrics.provided.registry)
    link = providers.Singleton(redis_link, _Adapters.settings, _Adapters.clock, redis_telemetry)
    epochs = providers.Singleton(RedisEpochs, link, _Adapters.clock, _Adapters.ids)
    token_verifier = providers.Singleton(VerifyToken, validated_identity, peppers, epochs, _Adapters.clock)
    agent_verifier = providers.Singleton(VerifyAgent, validated_identity, epochs)
    identity = providers.Singleton(PostgresIdentity, administration_database)
    administrator_verifier = providers.Singleton(VerifyToken, identity, peppers, epochs, _Adapters.clock)

    change_log = providers.Singleton(PostgresChangeLog, watch_database)
    live_tokens = providers.Singleton(PostgresChangeLog, administration_database)
    watch_server = providers.Singleton(WatchServer, change_log)
    watch_service = providers.Singleton(WatchService, watch_server, live_tokens)

    resources = providers.List(identity_database, watch_database, administration_database, link)
    background = providers.List(watch_server, providers.Singleton(PruneChanges, change_log), loop_lag)
    checks = providers.Callable(auth_checks, postgres=identity_database, redis=link)
