"""The settings of the way to OpenAI's API, or to a server that speaks it; a part of ``settings.Settings``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ibex.entrypoints.setting_values import (
    SECONDS,
    Secret,
    Variable,
    globs,
    int_between,
    on_off,
    seconds,
    secret_text,
    setting,
    url,
)


class Transport(StrEnum):
    """What carries requests to the provider (ADR 0025)."""

    DIRECT = "direct"
    HTTPX = "httpx"
    HTTP2 = "http2"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """Durations are in seconds; the key is None where it is not set."""

    openai_api_key: Secret[str] | None = setting(
        None,
        Variable(
            "OPENAI_API_KEY",
            secret_text,
            "OpenAI's API key",
            "Without it the built-in echo provider answers (development only).",
            is_secret=True,
        ),
    )
    openai_base_url: str = setting(
        "https://api.openai.com/v1",
        Variable(
            "OPENAI_BASE_URL", url("http", "https"), "an http:// or https:// URL", "Where OpenAI's API is spoken."
        ),
    )
    openai_models: tuple[str, ...] = setting(
        ("gpt-*", "chatgpt-*", "o[0-9]*"),
        Variable("IBEX_OPENAI_MODELS", globs, "model names or globs, separated by commas", "The models routed there."),
    )
    openai_request_timeout_s: float = setting(
        120.0, Variable("OPENAI_REQUEST_TIMEOUT", seconds, SECONDS, "The most a request may take, retries included.")
    )
    openai_connect_timeout_s: float = setting(
        5.0, Variable("IBEX_OPENAI_CONNECT_TIMEOUT", seconds, SECONDS, "The most a connection may take.")
    )
    openai_first_byte_timeout_s: float = setting(
        120.0,
        Variable("IBEX_OPENAI_FIRST_BYTE_TIMEOUT", seconds, SECONDS, "From a try to the first byte of its answer."),
    )
    openai_idle_timeout_s: float = setting(
        60.0, Variable("IBEX_OPENAI_IDLE_TIMEOUT", seconds, SECONDS, "The longest silence within an answer.")
    )
    openai_max_retries: int = setting(
        3, Variable("OPENAI_MAX_RETRIES", int_between(0, 10), "0 to 10", "Tries after the first one.")
    )
    openai_retry_base_delay_s: float = setting(
        0.5, Variable("OPENAI_RETRY_BASE_DELAY", seconds, SECONDS, "The first retry's delay; it doubles each time.")
    )
    openai_stream_usage: bool = setting(
        True,  # noqa: FBT003 - a default, as dataclasses.field takes it
        Variable(
            "IBEX_OPENAI_STREAM_USAGE",
            on_off,
            "on or off",
            "off for servers that refuse stream_options.include_usage.",
        ),
    )
    openai_transport: Transport = setting(
        Transport.DIRECT,
        Variable(
            "IBEX_OPENAI_TRANSPORT",
            Transport,
            "direct, httpx or http2",
            "direct is the fastest; httpx goes through the environment's HTTPS_PROXY, http2 speaks HTTP/2 as well.",
        ),
    )
    openai_max_connections: int = setting(
        1_000,
        Variable(
            "IBEX_OPENAI_MAX_CONNECTIONS",
            int_between(1, 60_000),
            "1 to 60000",
            "Connections to the provider, for each worker; as many requests wait for one before they are refused.",
        ),
    )
