"""The models that clients can choose from: those that the providers list, if they are routed (ADR 0056)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.deadline import Deadline
from ibex.domain.errors import ProviderNotConfiguredError, RetryableError
from ibex.domain.provider_errors import ProviderTimeoutError
from ibex.domain.proxying.provider import MAX_MODELS, is_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ibex.domain.clock import Clock
    from ibex.domain.proxying.provider import Provider, ProviderModel, ProviderRegistry

REFRESH_S: Final = 300
"""The age at which a list is requested from the provider again."""
RETRY_S: Final = 10
"""How long the provider is left alone after it could not be asked."""
TIMEOUT_S: Final = 2.0
"""The time limit of asking a provider."""
MAX_NAME_LENGTH: Final = 256
_MAX_CREATED: Final = 2**53 - 1  # a JSON number that every client reads exactly
_NS: Final = 1_000_000_000


class ModelListObserver(Protocol):
    """Port: is told whether providers list their models. Never raises, never blocks."""

    def list_received(self, provider: str) -> None:
        """Note that a provider, by its name, has listed its models."""

    def list_failed(self, provider: str, error: RetryableError) -> None:
        """Note that a provider could not be asked."""


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A model that clients can request. ``created`` is in Unix seconds."""

    id: str
    created: int
    owned_by: str


class RoutedModels:
    """The routed models of all providers, as the providers last listed them.

    A list is kept for ``REFRESH_S``. Then the next caller asks the provider again, and callers in the meantime wait
    for the same response. If the provider does not return a list, its last list stays in use. Before the first list,
    the configured names are returned, without the patterns.
    """

    def __init__(self, registry: ProviderRegistry, clock: Clock, observer: ModelListObserver) -> None:
        self._registry = registry
        since = int(clock.now().timestamp())
        self._lists = {
            provider.name: _ModelList(provider, registry, clock, observer, since) for provider in registry.providers
        }

    async def all(self) -> Sequence[RoutedModel]:
        """Return the models in the order of their providers. Waits for at most ``TIMEOUT_S``; raises no error."""
        lists = await asyncio.gather(*(each.current() for each in self._lists.values()))
        return [model for models in lists for model in models.values()]

    async def find(self, name: str) -> RoutedModel:
        """Return a model by its name. Waits for at most ``TIMEOUT_S``.

        Raises ``ProviderNotConfiguredError`` if no provider serves the model, or if its provider does not list it. A
        provider without a known list is taken to have every model that is routed to it.
        """
        return await self._lists[self._registry.for_model(name).name].find(name)


class _ModelList:
    """The routed models of one provider."""

    def __init__(
        self, provider: Provider, registry: ProviderRegistry, clock: Clock, observer: ModelListObserver, since: int
    ) -> None:
        """``since`` is the time of creation of models for which the provider gives none."""
        self._provider = provider
        self._registry = registry
        self._clock = clock
        self._observer = observer
        self._since = since
        self._listed: Mapping[str, RoutedModel] | None = None
        self._named = {name: self._described(name) for name in provider.models if not is_pattern(name)}
        self._due_ns = clock.monotonic_ns()
        self._asking: asyncio.Task[None] | None = None

    async def current(self) -> Mapping[str, RoutedModel]:
        """Return the models by name."""
        await self._refresh()
        return self._named if self._listed is None else self._listed

    async def find(self, name: str) -> RoutedModel:
        """Return a model that is routed to this provider. Raises ``ProviderNotConfiguredError`` if it lists no such."""
        await self._refresh()
        if self._listed is None:
            return self._described(name)
        model = self._listed.get(name)
        if model is None:
            raise ProviderNotConfiguredError(
                "The provider does not list this model. GET /v1/models lists the available models."
            )
        return model

    async def _refresh(self) -> None:
        """Ask the provider if that is due, once for concurrent callers. A caller that leaves does not end the call."""
        if self._clock.monotonic_ns() < self._due_ns:
            return
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        began_ns = self._clock.monotonic_ns()
        try:
            async with Deadline(asyncio.get_running_loop().time() + TIMEOUT_S):
                listed = await self._provider.list_models()
        except TimeoutError:
            self._failed(ProviderTimeoutError())
        except RetryableError as error:
            self._failed(error)
        else:
            self._listed = self._routed(listed)
            self._due_ns = began_ns + REFRESH_S * _NS
            self._observer.list_received(self._provider.name)
        finally:
            self._asking = None

    def _failed(self, error: RetryableError) -> None:
        self._due_ns = self._clock.monotonic_ns() + RETRY_S * _NS
        self._observer.list_failed(self._provider.name, error)

    def _routed(self, listed: Iterable[ProviderModel]) -> Mapping[str, RoutedModel]:
        """Return the models with a valid name that are routed to this provider. Of equal names, the first counts."""
        routed: dict[str, RoutedModel] = {}
        for model in islice(listed, MAX_MODELS):
            if _is_name(model.id) and self._is_routed_here(model.id):
                routed.setdefault(model.id, self._described(model.id, model.created, model.owned_by))
        return routed

    def _is_routed_here(self, name: str) -> bool:
        try:
            return self._registry.for_model(name) is self._provider
        except ProviderNotConfiguredError:
            return False

    def _described(self, name: str, created: int | None = None, owned_by: str | None = None) -> RoutedModel:
        """Return a model. IBEX's start and the provider's name replace a time and an owner that are invalid."""
        return RoutedModel(
            name,
            created if created is not None and 0 <= created <= _MAX_CREATED else self._since,
            owned_by if owned_by is not None and _is_name(owned_by) else self._provider.name,
        )


def _is_name(text: str) -> bool:
    """Return whether a text is short enough, and has no control or format characters and no lone surrogates."""
    return 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable()
