"""The models that clients can choose from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from harness.chat_scene import ScriptedProvider, pause
from harness.simulated_time import LoopClock, in_simulated_time
from ibex.domain.errors import OverloadedError, ProviderNotConfiguredError, RetryableError
from ibex.domain.provider_errors import ProviderTimeoutError, ProviderUnavailableError
from ibex.domain.proxying.model_list import REFRESH_S, RETRY_S, TIMEOUT_S, RoutedModel, RoutedModels
from ibex.domain.proxying.provider import MAX_MODELS, ProviderBody, ProviderModel, ProviderRegistry


def provider_of(*listed: str, models: tuple[str, ...] = ("gpt-*", "o1"), name: str = "openai") -> ScriptedProvider:
    """Return a provider that claims ``models`` and lists these names."""
    return ScriptedProvider(
        ProviderBody(b""), name=name, models=models, listed=[ProviderModel(name, 7, "acme") for name in listed]
    )


@dataclass(slots=True)
class _Observer:
    """A ``ModelListObserver`` that remembers its notifications."""

    told: list[tuple[str, type[RetryableError] | None]] = field(default_factory=list)

    def list_received(self, provider: str) -> None:
        self.told.append((provider, None))

    def list_failed(self, provider: str, error: RetryableError) -> None:
        self.told.append((provider, type(error)))


class Scene:
    """The use case over scripted providers."""

    def __init__(self, *providers: ScriptedProvider) -> None:
        self.observer = _Observer()
        self.models = RoutedModels(ProviderRegistry(providers), LoopClock(), self.observer)

    async def names(self) -> list[str]:
        """Return the names in the list."""
        return [model.id for model in await self.models.all()]


@in_simulated_time
async def test_routed_models_of_the_provider_are_listed() -> None:
    """They have its order and its values. Patterns and fine-tuned models, perhaps of another tenant, are left out."""
    scene = Scene(provider_of("gpt-5", "whisper-1", "gpt-4o", "ft:gpt-4o:acme::x", "gpt-*", "o1", "o1-mini"))

    assert await scene.names() == ["gpt-5", "gpt-4o", "o1"]
    assert await scene.models.find("gpt-4o") == RoutedModel("gpt-4o", 7, "acme")


@in_simulated_time
async def test_a_model_is_listed_by_the_provider_that_it_is_routed_to() -> None:
    """Other providers that list the same name are ignored."""
    first = provider_of("gpt-4o", "mine", models=("gpt-*",), name="first")
    second = provider_of("gpt-4o", "mine", "x", models=("mine", "o[0-9]*"), name="second")
    scene = Scene(first, second)

    assert await scene.names() == ["gpt-4o", "mine"]
    first.listed, second.listed = ProviderUnavailableError(), []
    await asyncio.sleep(REFRESH_S)
    assert await scene.names() == ["gpt-4o"]


@in_simulated_time
async def test_a_list_is_cached_for_five_minutes() -> None:
    """After that, the provider is called again."""
    provider = provider_of("gpt-4o")
    scene = Scene(provider)
    await scene.names()
    provider.listed = [ProviderModel("gpt-5")]

    await asyncio.sleep(REFRESH_S - 1)
    assert await scene.names() == ["gpt-4o"]
    await scene.models.find("gpt-4o")
    assert provider.asked_to_list == 1
    await asyncio.sleep(1)
    assert await scene.names() == ["gpt-5"]
    assert provider.asked_to_list == 2


@in_simulated_time
async def test_concurrent_requests_share_one_call() -> None:
    """A request that is cancelled does not cancel the call for the others."""
    provider = provider_of("gpt-4o")
    scene = Scene(provider)
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(scene.names())
        staying = [group.create_task(scene.names()) for _ in range(3)]
        found = group.create_task(scene.models.find("gpt-4o"))
        await asyncio.sleep(0)
        leaving.cancel()

    assert [task.result() for task in staying] == [["gpt-4o"]] * 3
    assert (found.result().id, provider.asked_to_list) == ("gpt-4o", 1)


@pytest.mark.parametrize("error", [ProviderUnavailableError(), ProviderTimeoutError(), OverloadedError()])
def test_configured_names_are_listed_while_the_provider_fails(error: RetryableError) -> None:
    """Every routed model can be described. The provider is called again after a delay."""
    provider = provider_of()
    provider.listed = error

    @in_simulated_time
    async def run() -> None:
        scene = Scene(provider)
        assert await scene.models.all() == [RoutedModel("o1", 1_767_323_045, "openai")]
        assert await scene.models.find("gpt-9") == RoutedModel("gpt-9", 1_767_323_045, "openai")
        with pytest.raises(ProviderNotConfiguredError, match="No provider is configured"):
            await scene.models.find("claude")
        assert provider.asked_to_list == 1
        provider.listed = [ProviderModel("gpt-4o")]
        await asyncio.sleep(RETRY_S)
        assert await scene.names() == ["gpt-4o"]
        assert scene.observer.told == [("openai", type(error)), ("openai", None)]

    run()


@in_simulated_time
async def test_the_last_list_is_served_while_a_refresh_fails() -> None:
    """The number of failures does not matter."""
    provider = provider_of("gpt-4o")
    scene = Scene(provider)
    await scene.names()
    provider.listed = ProviderUnavailableError()

    await asyncio.sleep(REFRESH_S)
    for number in range(3):
        assert await scene.names() == ["gpt-4o"]
        with pytest.raises(ProviderNotConfiguredError):
            await scene.models.find("gpt-5")
        assert provider.asked_to_list == number + 2
        await asyncio.sleep(RETRY_S)


class _SilentProvider(ScriptedProvider):
    async def list_models(self) -> list[ProviderModel]:
        """Do not answer."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled += 1
        return []


@in_simulated_time
async def test_the_call_to_a_silent_provider_times_out_after_two_seconds() -> None:
    """The call is cancelled, and the next request does not wait."""
    provider = _SilentProvider(ProviderBody(b""), models=("gpt-*", "o1"))
    scene = Scene(provider)
    loop = asyncio.get_running_loop()

    assert await scene.names() == ["o1"]
    assert loop.time() == pytest.approx(TIMEOUT_S)
    assert provider.cancelled == 1
    assert await scene.names() == ["o1"]
    assert loop.time() == pytest.approx(TIMEOUT_S)
    assert scene.observer.told == [("openai", ProviderTimeoutError)]


@in_simulated_time
async def test_an_unexpected_exception_of_a_provider_is_raised() -> None:
    """The next request calls the provider again."""
    provider = provider_of()
    provider.listed = ZeroDivisionError()
    scene = Scene(provider)
    with pytest.raises(ZeroDivisionError):
        await scene.names()
    provider.listed = [ProviderModel("gpt-4o")]
    await pause()
    assert await scene.names() == ["gpt-4o"]


@in_simulated_time
async def test_names_that_no_client_can_send_are_ignored() -> None:
    """They are empty, too long or not printable. The first of two equal names counts."""
    bad = ["", "x" * 257, "a\x00", "a\n", "a\x85", "a\u202e", "\ud800"]
    provider = provider_of(*bad, "x" * 256, models=("*",))
    provider.listed = [*provider.listed, ProviderModel("é"), ProviderModel("é", 1)]  # type: ignore[misc]
    scene = Scene(provider)

    assert await scene.models.all() == [RoutedModel("x" * 256, 7, "acme"), RoutedModel("é", 1_767_323_045, "openai")]


@pytest.mark.parametrize(
    ("listed", "created", "owned_by"),
    [
        (ProviderModel("m", 0, "a b"), 0, "a b"),
        (ProviderModel("m"), 1_767_323_045, "openai"),
        (ProviderModel("m", -1, ""), 1_767_323_045, "openai"),
        (ProviderModel("m", 2**53, "x" * 257), 1_767_323_045, "openai"),
        (ProviderModel("m", 1, "\ud800"), 1, "openai"),
    ],
)
def test_missing_or_invalid_values_of_a_model_get_defaults(listed: ProviderModel, created: int, owned_by: str) -> None:
    """The defaults are the time of the start and the provider's name."""

    @in_simulated_time
    async def run() -> None:
        provider = provider_of(models=("*",))
        provider.listed = [listed]
        assert await Scene(provider).models.all() == [RoutedModel("m", created, owned_by)]

    run()


@in_simulated_time
async def test_a_list_that_is_too_long_is_truncated() -> None:
    """The limit does not depend on the provider."""
    scene = Scene(provider_of(*(f"gpt-{number}" for number in range(MAX_MODELS + 1))))

    assert len(await scene.names()) == MAX_MODELS


@in_simulated_time
async def test_no_model_is_listed_without_a_provider() -> None:
    """The list is empty."""
    scene = Scene()
    assert await scene.names() == []
    with pytest.raises(ProviderNotConfiguredError):
        await scene.models.find("gpt-4o")
