"""The LLM APIs behind the proxy."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from ibex.domain.errors import ProviderNotConfiguredError
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@value_object
class StreamEvent:
    """One server-sent event of a provider's stream.

    ``raw`` is every byte of it, its closing blank line included; ``data`` is its data field, lines joined as the WHATWG
    HTML standard says (9.2.6), None for comments and for what is no event at all. The repr holds no text.
    """

    raw: bytes
    data: bytes | None = None

    def __repr__(self) -> str:
        return f"<StreamEvent {len(self.raw)} bytes>"


@value_object
class ProviderRequest:
    """A request to a provider: the model, whether to stream, and the whole body. The repr shows no content."""

    model: str
    stream: bool
    body: bytes

    def __repr__(self) -> str:
        return f"<ProviderRequest stream={self.stream} bytes={len(self.body)}>"


@value_object
class ProviderBody:
    """A whole answer: its bytes as the provider sent them, how many tries it took, the provider's id of the request."""

    body: bytes
    attempts: int = 1
    provider_request_id: str | None = None

    def __repr__(self) -> str:
        return f"<ProviderBody {len(self.body)} bytes>"


class ProviderStream(Protocol):
    """A stream whose 200 has come. Iterating it gives, for each read, the events that the read completed.

    Iteration raises ``ProviderUnavailableError`` when the connection dies and ``ProviderTimeoutError`` when the
    provider falls silent; bytes that came before are given out first. It ends when the provider ends it.
    """

    @property
    def attempts(self) -> int:
        """How many tries it took to get this stream."""

    @property
    def provider_request_id(self) -> str | None:
        """The provider's own id of the request; None where it gave none."""

    def __aiter__(self) -> AsyncIterator[Sequence[StreamEvent]]:
        """Give out the events; may be called once."""

    async def aclose(self) -> None:
        """Stop the provider, or drain what little is left, and give the connection back. Idempotent, never raises."""


class Provider(Protocol):
    """Port: one LLM API."""

    @property
    def name(self) -> str:
        """The provider's name, as traces and metrics call it."""

    @property
    def models(self) -> tuple[str, ...]:
        """Patterns (``fnmatch``) of the model names that it serves."""

    @property
    def reports_stream_usage(self) -> bool:
        """Whether it takes ``stream_options.include_usage``, so that usage is known of every stream."""

    async def complete(self, request: ProviderRequest) -> ProviderBody | ProviderStream:
        """Send the request's body as it is; return a stream if ``request.stream``, else a body.

        Raises the errors of the provider from ``errors``, after such retries as are safe; no text of the provider's
        401, 403 or 5xx answers is in them. Cancelling it ends the upstream request.
        """


class ProviderRegistry:
    """Which provider serves a model; built once, at start."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        """Raise ``ValueError`` if two providers claim the same pattern."""
        claims: dict[str, Provider] = {}
        for provider in providers:
            for pattern in provider.models:
                if pattern in claims:
                    raise ValueError(f"{claims[pattern].name} and {provider.name} both claim the model {pattern}")
                claims[pattern] = provider
        self._claims = claims

    @property
    def patterns(self) -> tuple[tuple[str, str], ...]:
        """Every claimed pattern with the name of its provider."""
        return tuple((pattern, provider.name) for pattern, provider in self._claims.items())

    def route(self, model: str) -> Provider:
        """Return the provider of a model, an exact claim before a pattern; raises ``ProviderNotConfiguredError``."""
        exact = self._claims.get(model)
        if exact is not None:
            return exact
        for pattern, provider in self._claims.items():
            if fnmatchcase(model, pattern):
                return provider
        raise ProviderNotConfiguredError
