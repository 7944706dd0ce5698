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
    """One event of a provider's stream.

    ``raw`` is every byte of it. ``data`` is its payload, None if it has none. The repr shows no content.
    """

    raw: bytes
    data: bytes | None = None

    def __repr__(self) -> str:
        return f"<StreamEvent {len(self.raw)} bytes>"


@value_object
class ProviderRequest:
    """A request to a provider: the path of the operation, the model, whether to stream, and the whole body.

    The repr shows no content.
    """

    path: str
    model: str
    is_streaming: bool
    body: bytes

    def __repr__(self) -> str:
        return f"<ProviderRequest {self.path} streaming={self.is_streaming} bytes={len(self.body)}>"


@value_object
class ProviderBody:
    """A buffered response: the provider's bytes, the number of attempts, and the provider's id of the request."""

    body: bytes
    attempts: int = 1
    provider_request_id: str | None = None

    def __repr__(self) -> str:
        return f"<ProviderBody {len(self.body)} bytes>"


class ProviderStream(Protocol):
    """A stream that has begun successfully. Iterating it gives, for each read, the events that the read completed.

    Iteration raises ``ProviderUnavailableError`` when the connection dies and ``ProviderTimeoutError`` when the
    provider falls silent; bytes that came before are given out first. It ends when the provider ends it.
    """

    @property
    def attempts(self) -> int:
        """The number of attempts that it took to get this stream."""

    @property
    def provider_request_id(self) -> str | None:
        """The provider's own id of the request; None if it gave none."""

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
        """Whether it reports the usage of a stream if it is asked to."""

    async def complete(self, request: ProviderRequest) -> ProviderBody | ProviderStream:
        """Send the request's body as it is; return a stream if ``request.is_streaming``, else a body.

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
