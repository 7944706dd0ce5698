"""The routing of models to providers."""

from __future__ import annotations

import pytest

from harness.chat_scene import ScriptedProvider
from ibex.domain.errors import ProviderNotConfiguredError
from ibex.domain.proxying.provider import ProviderBody, ProviderRegistry, StreamEvent


def provider_of(name: str, *models: str) -> ScriptedProvider:
    """Return a provider that claims these models."""
    return ScriptedProvider(ProviderBody(b""), name=name, models=models)


def test_a_model_is_routed_to_the_provider_whose_pattern_it_fits() -> None:
    """Patterns are globs that match the whole name."""
    openai, echo = provider_of("openai", "gpt-*", "o[0-9]*"), provider_of("echo", "echo")
    registry = ProviderRegistry([openai, echo])

    assert registry.route("gpt-4o", "chat.completions") is openai
    assert registry.route("o3-mini", "chat.completions") is openai
    assert registry.route("echo", "chat.completions") is echo


@pytest.mark.parametrize("model", ["", "GPT-4o", "my-gpt-4o", "ollama", "echo-2", "\ud800"])
def test_a_model_that_fits_no_pattern_is_not_configured(model: str) -> None:
    """Case counts, and so does every character."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*"), provider_of("echo", "echo")])

    with pytest.raises(ProviderNotConfiguredError):
        registry.route(model, "chat.completions")


def test_an_exact_claim_goes_before_a_pattern() -> None:
    """Whichever provider was registered first."""
    everything, special = provider_of("everything", "*"), provider_of("special", "gpt-4o")
    registry = ProviderRegistry([everything, special])

    assert registry.route("gpt-4o", "chat.completions") is special
    assert registry.route("gpt-4o-mini", "chat.completions") is everything


def test_among_patterns_the_first_one_counts() -> None:
    """The order of configuration decides."""
    first, second = provider_of("first", "gpt-4*"), provider_of("second", "gpt-*")

    assert ProviderRegistry([first, second]).route("gpt-4o", "chat.completions") is first
    assert ProviderRegistry([second, first]).route("gpt-4o", "chat.completions") is second


@pytest.mark.parametrize("model", ["gpt-*", "o[0-9]*", "*"])
def test_a_pattern_is_not_a_model(model: str) -> None:
    """A client that takes a pattern for a name gets an error from IBEX, although another pattern matches it."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*", "o[0-9]*", "*")])

    with pytest.raises(ProviderNotConfiguredError):
        registry.route(model, "chat.completions")


def test_two_claims_on_one_model_refuse_to_start() -> None:
    """The message names both providers and the model."""
    with pytest.raises(ValueError, match=r"one and two both claim the model gpt-\*"):
        ProviderRegistry([provider_of("one", "gpt-*"), provider_of("two", "echo", "gpt-*")])


def test_patterns_can_be_listed() -> None:
    """Every pattern with its provider, in the order of configuration; empty without providers."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*", "o1"), provider_of("echo", "echo")])

    assert registry.patterns == (("gpt-*", "openai"), ("o1", "openai"), ("echo", "echo"))
    assert ProviderRegistry([]).patterns == ()


def test_providers_can_be_listed() -> None:
    """Each once, in the order of configuration."""
    openai, echo = provider_of("openai", "gpt-*", "o1"), provider_of("echo", "echo")

    assert ProviderRegistry([openai, echo]).providers == (openai, echo)


def test_answers_show_no_text() -> None:
    """The reprs of bodies and events do not contain their bytes."""
    assert repr(ProviderBody(b"secret")) == "<ProviderBody 6 bytes>"
    assert repr(StreamEvent(b"data: secret\n\n", b"secret")) == "<StreamEvent 14 bytes>"
