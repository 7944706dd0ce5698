"""The providers of an environment: OpenAI with its transport, or the echo provider without an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.http_client.httpx_transport import httpx_transport
from ibex.adapters.http_client.transport import Http1Transport, default_transport
from ibex.adapters.openai.config import ApiKey, OpenAIConfig
from ibex.adapters.openai.echo import EchoProvider
from ibex.adapters.openai.extra_headers import NO_HEADERS
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.domain.proxying.provider import Dialect, ProviderRegistry
from ibex.entrypoints.openai_settings import StreamUsage, Transport
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    import httpx

    from ibex.domain.clock import Clock
    from ibex.entrypoints.settings import Settings


def provider_registry_of(settings: Settings, transport: httpx.AsyncBaseTransport, clock: Clock) -> ProviderRegistry:
    """Route the configured models to OpenAI or, without an API key, to the echo provider."""
    key = settings.openai_api_key
    if key is None:
        return ProviderRegistry([EchoProvider(clock, settings.openai_models, first_byte_delay_s=settings.echo_delay_s)])
    return ProviderRegistry([OpenAIProvider(_openai_config(settings, key.reveal()), transport, clock)])


def transport_of(settings: Settings) -> Http1Transport | httpx.AsyncBaseTransport:
    """Return the transport of requests to OpenAI. Raises ``SettingsError`` if it cannot be used."""
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
            headers=settings.openai_headers or NO_HEADERS,
        )
    except ValueError as wrong:
        raise SettingsError(f"OPENAI_BASE_URL cannot be used: {wrong}.") from None
