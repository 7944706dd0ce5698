"""How OpenAI's API is reached: what an operator may choose about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httpx

DEFAULT_MODELS: Final = ("gpt-*", "chatgpt-*", "o[0-9]*")


class ApiKey:
    """The provider's key. It shows itself through ``reveal()`` only."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        """Raise ``ValueError``, without the key in it, if this could not stand in a header."""
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("an API key is printable ASCII without spaces")
        self._key = key

    def reveal(self) -> str:
        """Return the key."""
        return self._key

    def __repr__(self) -> str:
        return "<ApiKey>"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig:
    """Where and how to ask; all durations are in seconds.

    ``request_timeout_s`` bounds a request with all its tries and the whole of its answer, streams included.
    ``first_byte_timeout_s`` bounds the wait from the start of a try to the first byte of its answer's body, which for a
    buffered answer is the time that the model thinks. ``idle_timeout_s`` bounds every silence after that byte.
    ``stream_usage`` is off for servers that refuse ``stream_options.include_usage``.
    """

    api_key: ApiKey
    base_url: str = "https://api.openai.com/v1"
    models: tuple[str, ...] = DEFAULT_MODELS
    request_timeout_s: float = 120.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 120.0
    idle_timeout_s: float = 60.0
    max_retries: int = 3
    retry_base_delay_s: float = 0.5
    stream_usage: bool = True

    def __post_init__(self) -> None:
        """Raise ``ValueError`` if the base URL is none that can be asked."""
        self.root_url()

    def root_url(self) -> httpx.URL:
        """Return the root of the API, which ends with a slash.

        Raises ``ValueError``, whose message does not contain the URL, because it may hold a password.
        """
        try:
            url = httpx.URL(self.base_url.rstrip("/") + "/")
        except httpx.InvalidURL:
            raise ValueError("the base URL is not a URL") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("the base URL is not an http:// or https:// URL with a host")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("the base URL has no user, no query and no fragment")
        return url
