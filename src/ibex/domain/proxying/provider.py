"""Port: the LLM APIs behind the proxy, and the registry that routes a model to one of them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.errors import ProviderNotConfiguredError
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The differences of a provider from the API that it speaks (ADR 0055).

    ``asks_for_usage`` is whether the proxy asks for the usage of streams. ``merges_instructions`` is whether a
    directive becomes part of the client's first instruction message, because the provider accepts only one.
    ``has_lenient_end`` is whether a stream that has delivered text or complete tool calls is complete once the response
    ends cleanly, even without a finish reason.
    """

    asks_for_usage: bool = True
    merges_instructions: bool = False
    has_lenient_end: bool = False


@value_object
class StreamEvent:
    """One event of a provider's stream.

    ``raw`` is the whole event, or a piece of one that is too large to hold. ``data`` is its payload; None
    for a piece, and for an event without data. ``name`` is the type of the event, None if it has none. The repr shows
    no content.
    """

    raw: bytes
    data: bytes | None = None
    name: bytes | None = None
    is_piece: bool = False

    def __repr__(self) -> str:
        return f"<StreamEvent {len(self.raw)} bytes>"


@value_object
class TraceContext:
    """The trace of a request, and the span of the call to the provider, for the provider's own tracing.

    ``trace_id`` has 32 lower-case hexadecimal digits, and ``span_id`` 64 bits. ``flags`` are those of the W3C Trace
    Context, such as 1 for sampled.
    """

    trace_id: str
    span_id: int
    flags: int = 0


@value_object
class ProviderRequest:
    """A request to a provider: its path with the query, the model, whether to stream, the whole body, and the method.

    ``model`` is None if the request names an earlier response instead. If ``trace`` is None, no trace is sent.
    The repr shows no content.
    """

    operation: str
    path: str
    model: str | None
    is_streaming: bool
    body: bytes
    method: str = "POST"
    trace: TraceContext | None = None

    def __repr__(self) -> str:
        return f"<ProviderRequest {self.operation} streaming={self.is_streaming} bytes={len(self.body)}>"


@value_object
class ProviderBody:
    """A buffered response: the provider's bytes, the number of attempts, and the provider's id of the request.

    ``processing_ms`` is the processing time that the provider reports, in milliseconds; None if it reports none.
    """

    body: bytes
    attempts: int = 1
    provider_request_id: str | None = None
    processing_ms: int | None = None

    def __repr__(self) -> str:
        return f"<ProviderBody {len(self.body)} bytes>"


class ProviderStream(Protocol):
    """A stream that has begun successfully. Iteration yields, for each read, the events that the read completed.

    Iteration ends when the provider ends the stream. It raises ``ProviderUnavailableError`` if the connection is lost
    and ``ProviderTimeoutError`` if the provider sends nothing for too long, each after the events received before.
    """

    @property
    def attempts(self) -> int:
        """The number of attempts until this stream began."""

    @property
    def provider_request_id(self) -> str | None:
        """The provider's own id of the request; None if the response has none."""

    @property
    def processing_ms(self) -> int | None:
        """The processing time that the provider reports, in milliseconds; None if it reports none."""

    def __aiter__(self) -> AsyncIterator[Sequence[StreamEvent]]:
        """Return the iterator. Call it once."""

    def pass_to(self, take: Callable[[Sequence[StreamEvent]], bool] | None) -> None:
        """Allow to pass the events that arrive while a read waits to ``take``, at once, instead of ending the read.

        ``take`` never blocks, and returns whether it took the events. If not, the read returns them, and possibly more
        after them. None ends this. A provider that cannot pass events on ignores the call.
        """

    async def aclose(self) -> None:
        """Stop the provider, or drain a short rest, and release the connection. Idempotent, never raises."""


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """A model as its provider lists it. A field that the provider leaves out is None.

    ``created`` is in Unix seconds. Nothing is validated: the provider may send any name, number or owner.
    """

    id: str
    created: int | None = None
    owned_by: str | None = None


class Provider(Protocol):
    """Port: one LLM API."""

    @property
    def name(self) -> str:
        """The provider's name in traces and metrics."""

    @property
    def models(self) -> tuple[str, ...]:
        """The ``fnmatch`` patterns of the model names that the provider serves."""

    @property
    def operations(self) -> frozenset[str]:
        """The names of the operations that the provider supports."""

    @property
    def dialect(self) -> Dialect:
        """How the provider differs from the API that it speaks."""

    async def complete(self, request: ProviderRequest) -> ProviderBody | ProviderStream:
        """Send the request's body unchanged. Return a stream if ``request.is_streaming``, else a body.

        Raises the provider errors of ``errors``, and ``OverloadedError`` if no connection is available, after every
        retry that is safe. The errors contain no text of the provider's 401, 403 or 5xx responses. Cancellation stops
        the upstream request.
        """

    async def list_models(self) -> Sequence[ProviderModel]:
        """Ask the provider once, without a retry, for its own models; return at most ``MAX_MODELS`` in its order.

        Raises the provider errors of ``errors``, and ``OverloadedError`` if no connection is available. The caller
        limits the time: cancellation stops the upstream request.
        """


MAX_MODELS: Final = 5_000
"""The maximum of models in the list of a provider. Further ones are left out."""


class ProviderRegistry:
    """A registry of providers by model name, built once at startup."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        """Register the providers. Raises ``ValueError`` if two of them claim the same pattern."""
        claims: dict[str, Provider] = {}
        for provider in providers:
            for pattern in provider.models:
                if pattern in claims:
                    both = f"{claims[pattern].name} and {provider.name}"
                    raise ValueError(f"The providers {both} both claim the model {pattern}. Remove it from one.")
                claims[pattern] = provider
        self._claims = claims

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Every provider that claims a pattern, once, in the order of configuration."""
        return tuple({provider.name: provider for provider in self._claims.values()}.values())

    @property
    def patterns(self) -> tuple[tuple[str, str], ...]:
        """Every claimed pattern with the name of its provider."""
        return tuple((pattern, provider.name) for pattern, provider in self._claims.items())

    def route(self, model: str, operation: str) -> Provider:
        """Return the provider of a model; an exact name takes precedence over a pattern.

        Raises ``ProviderNotConfiguredError`` if no provider serves the model, if its provider does not support the
        operation, and if ``model`` is itself one of the patterns.
        """
        provider = self.for_model(model)
        if operation not in provider.operations:
            raise _unsupported()
        return provider

    def for_model(self, model: str) -> Provider:
        """Return the provider of a model. Raises ``ProviderNotConfiguredError`` if no provider serves the model."""
        exact = self._claims.get(model)
        if exact is not None and not is_pattern(model):
            return exact
        for pattern, provider in self._claims.items():
            if exact is None and fnmatchcase(model, pattern):
                return provider
        raise ProviderNotConfiguredError

    def by_name(self, name: str, operation: str) -> Provider:
        """Return the provider with this name.

        Raises ``ProviderNotConfiguredError`` if no provider has the name or if it does not support the operation.
        """
        for provider in self._claims.values():
            if provider.name == name:
                if operation not in provider.operations:
                    raise _unsupported()
                return provider
        raise ProviderNotConfiguredError("The response's provider is no longer configured. Create a new response.")


def _unsupported() -> ProviderNotConfiguredError:
    return ProviderNotConfiguredError("The provider of this model or response does not support this operation.")


def is_pattern(name: str) -> bool:
    """Return whether a configured name is a pattern, and not the name of one model."""
    return any(character in name for character in "*?[")
