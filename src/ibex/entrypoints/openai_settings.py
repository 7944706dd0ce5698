"""The settings of requests to OpenAI's API or a compatible server, a part of ``settings.Settings``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ibex.adapters.openai.config import DEFAULT_MODELS
from ibex.adapters.openai.extra_headers import NO_HEADERS, ExtraHeaders, parse_headers
from ibex.entrypoints.setting_values import (
    SECONDS,
    InvalidValueError,
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


class StreamUsage(StrEnum):
    """Whether IBEX asks for the token usage of streams. ``off`` and ``pass`` leave request and stream unchanged."""

    ON = "on"
    OFF = "off"
    PASS = "pass"  # noqa: S105 - not a password


class Transport(StrEnum):
    """The HTTP client that sends requests to the provider (ADR 0025)."""

    DIRECT = "direct"
    HTTPX = "httpx"
    HTTP2 = "http2"


def _stream_usage(value: str) -> StreamUsage:
    """Return the member with this value, ignoring case, like the settings that are on or off."""
    return StreamUsage(value.lower())


def _headers(value: str) -> Secret[ExtraHeaders]:
    try:
        return Secret(parse_headers(value))
    except ValueError as wrong:
        raise InvalidValueError(str(wrong)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """URL, key, models, limits and retries of the provider. Durations are in seconds. A key of None is not set."""

    openai_api_key: Secret[str] | None = setting(
        None,
        Variable(
            "OPENAI_API_KEY",
            secret_text,
            "an API key",
            "The key for the provider. If not set, the built-in echo provider answers (development only).",
            is_secret=True,
        ),
    )
    openai_base_url: str = setting(
        "https://api.openai.com/v1",
        Variable(
            "OPENAI_BASE_URL",
            url("http", "https"),
            "an http:// or https:// URL",
            "The base URL of OpenAI's API or of a compatible server.",
        ),
    )
    openai_headers: Secret[ExtraHeaders] | None = setting(
        None,
        Variable(
            "IBEX_OPENAI_HEADERS",
            _headers,
            "`Name: value`, several separated by newlines or semicolons",
            "Headers that IBEX adds to each request to the provider, such as `OpenAI-Project: proj_1`. `Authorization` "
            "replaces the header that contains OPENAI_API_KEY; without a value, as in `Authorization:; api-key: k`, "
            "that header is not sent.",
            is_secret=True,
        ),
    )
    openai_models: tuple[str, ...] = setting(
        DEFAULT_MODELS,
        Variable(
            "IBEX_OPENAI_MODELS",
            globs,
            "model names or globs, separated by commas",
            "The models that IBEX forwards to OPENAI_BASE_URL. GET /v1/models lists those that the provider has. No "
            "default matches fine-tuned models, because all organizations of IBEX share the key. `ft:gpt-*:acme:*` "
            "adds the fine-tuned models of OpenAI's organization acme.",
        ),
    )
    openai_request_timeout_s: float = setting(
        600.0,
        Variable(
            "OPENAI_REQUEST_TIMEOUT",
            seconds,
            SECONDS,
            "The time limit of a request to the provider, with all retries and the whole response. A stream that has "
            "begun is limited by IBEX_OPENAI_IDLE_TIMEOUT alone.",
        ),
    )
    openai_connect_timeout_s: float = setting(
        5.0,
        Variable(
            "IBEX_OPENAI_CONNECT_TIMEOUT",
            seconds,
            SECONDS,
            "The time limit for connecting to the provider: DNS lookup, all addresses and the TLS handshake.",
        ),
    )
    openai_first_byte_timeout_s: float = setting(
        600.0,
        Variable(
            "IBEX_OPENAI_FIRST_BYTE_TIMEOUT",
            seconds,
            SECONDS,
            "The time limit from an attempt to the first byte of the response body.",
        ),
    )
    openai_idle_timeout_s: float = setting(
        600.0, Variable("IBEX_OPENAI_IDLE_TIMEOUT", seconds, SECONDS, "The longest pause within a response.")
    )
    openai_max_retries: int = setting(
        3,
        Variable(
            "OPENAI_MAX_RETRIES",
            int_between(0, 10),
            "0 to 10",
            "The maximum number of retries after the first attempt.",
        ),
    )
    openai_retry_base_delay_s: float = setting(
        0.5,
        Variable(
            "OPENAI_RETRY_BASE_DELAY",
            seconds,
            SECONDS,
            "The delay before the first retry. It doubles with each further retry.",
        ),
    )
    openai_stream_usage: StreamUsage = setting(
        StreamUsage.ON,
        Variable(
            "IBEX_OPENAI_STREAM_USAGE",
            _stream_usage,
            "on, off or pass",
            "`on` requests token usage in streams (stream_options.include_usage), and hides the usage chunk from "
            "clients that did not ask for it. Use `off` for servers that refuse the option, and `pass` for servers "
            "that send usage anyway: both request nothing and hide nothing.",
        ),
    )
    openai_lenient_end: bool = setting(
        False,  # noqa: FBT003 - a default, as dataclasses.field takes it
        Variable(
            "IBEX_OPENAI_LENIENT_END",
            on_off,
            "on or off",
            "For servers whose streams end without a finish reason and without [DONE]. `on` accepts the clean end of "
            "a response after text or complete tool calls as the end of the stream.",
        ),
    )
    openai_merge_instructions: bool = setting(
        False,  # noqa: FBT003 - a default, as dataclasses.field takes it
        Variable(
            "IBEX_OPENAI_MERGE_INSTRUCTIONS",
            on_off,
            "on or off",
            "For servers that accept only one system or developer message. `on` merges the directive into "
            "the client's first one instead of adding another.",
        ),
    )
    openai_transport: Transport = setting(
        Transport.DIRECT,
        Variable(
            "IBEX_OPENAI_TRANSPORT",
            Transport,
            "direct, httpx or http2",
            "`direct` is the fastest. `httpx` uses the forward proxy in HTTPS_PROXY. `http2` also uses it, and HTTP/2.",
        ),
    )
    openai_max_connections: int = setting(
        1_000,
        Variable(
            "IBEX_OPENAI_MAX_CONNECTIONS",
            int_between(1, 60_000),
            "1 to 60000",
            "Connections to the provider per worker. The same number of requests can wait for a connection; IBEX "
            "refuses further ones.",
        ),
    )

    @property
    def extra_headers(self) -> ExtraHeaders:
        """The headers that IBEX adds to each request to the provider; none if they are not set."""
        return NO_HEADERS if self.openai_headers is None else self.openai_headers.reveal()
