"""The configuration of the OpenAI provider."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import httpx

from ibex.adapters.openai.extra_headers import NO_HEADERS, ExtraHeaders
from ibex.domain.proxying.provider import Dialect

DEFAULT_MODELS: Final = ("gpt-*", "chatgpt-*", "o[0-9]*", "codex-*", "computer-use-*", "text-embedding-*")


class ApiKey:
    """The provider's API key. Only ``reveal()`` returns it; the repr does not."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        """Raise ``ValueError``, whose message omits the key, if the key is not valid in a header."""
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the API key must not be empty, and must be printable ASCII without spaces")
        self._key = key

    def reveal(self) -> str:
        """Return the key."""
        return self._key

    def __repr__(self) -> str:
        return "<ApiKey>"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig:
    """The address, the key, the time limits and the retries of the provider. All durations are in seconds.

    ``request_timeout_s`` limits a request with all its attempts and its whole response. It does not limit a stream that
    has begun.
    ``first_byte_timeout_s`` limits the wait from the start of an attempt to the first byte of the response body, which
    for a buffered response includes the time that the model computes. ``idle_timeout_s`` limits each silence after that
    byte. ``headers`` are sent with every request.
    """

    api_key: ApiKey
    base_url: str = "https://api.openai.com/v1"
    models: tuple[str, ...] = DEFAULT_MODELS
    request_timeout_s: float = 600.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 600.0
    idle_timeout_s: float = 600.0
    max_retries: int = 3
    retry_base_delay_s: float = 0.5
    dialect: Dialect = field(default_factory=Dialect)
    headers: ExtraHeaders = NO_HEADERS

    def __post_init__(self) -> None:
        """Raise ``ValueError`` if the base URL is not valid."""
        self.root_url()

    def root_url(self) -> httpx.URL:
        """Return the root URL of the API, which ends with a slash.

        Raises ``ValueError`` if it is not valid. The message omits the URL, which may contain a password.
        """
        try:
            url = httpx.URL(self.base_url.rstrip("/") + "/")
        except httpx.InvalidURL:
            raise ValueError("the base URL is not a URL") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("the base URL must be an http:// or https:// URL with a host")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("the base URL must not have a user, a query or a fragment")
        return url
