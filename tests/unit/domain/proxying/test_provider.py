"""The routing of models to providers."""

from __future__ import annotations

import pytest

from harness.chat_scene import ScriptedProvider
from ibex.domain.errors import ProviderNotConfiguredError
from ibex.domain.proxying.provider import ProviderBody, ProviderRegistry, StreamEvent


def provider_of(name: str, *models: str) -> ScriptedProvider:
    """Return a provider that claims these models."""
    return ScriptedProvider(ProviderBody(b""), name=name, models=models)


def test_a_model_is_routed_to_the_provider_with_a_matching_pattern() -> None:
    """Patterns are globs that match the whole name."""
    openai, echo = provider_of("openai", "gpt-*", "o[0-9]*"), provider_of("echo", "echo")
    registry = ProviderRegistry([openai, echo])

    assert registry.route("gpt-4o", "chat.completions") is openai
    assert registry.route("o3-mini", "chat.completions") is openai
    assert registry.route("echo", "chat.completions") is echo


@pytest.mark.parametrize("model", ["", "GPT-4o", "my-gpt-4o", "ollama", "echo-2", "\ud800"])
def test_a_model_that_matches_no_pattern_raises(model: str) -> None:
    """The match is case-sensitive and covers the whole name."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*"), provider_of("echo", "echo")])

    with pytest.raises(ProviderNotConfiguredError):
        registry.route(model, "chat.completions")


def test_an_exact_name_takes_precedence_over_a_pattern() -> None:
    """The order of the providers does not matter."""
    everything, special = provider_of("everything", "*"), provider_of("special", "gpt-4o")
    registry = ProviderRegistry([everything, special])

    assert registry.route("gpt-4o", "chat.completions") is special
    assert registry.route("gpt-4o-mini", "chat.completions") is everything


def test_the_first_matching_pattern_wins() -> None:
    """The order is that of the configuration."""
    first, second = provider_of("first", "gpt-4*"), provider_of("second", "gpt-*")

    assert ProviderRegistry([first, second]).route("gpt-4o", "chat.completions") is first
    assert ProviderRegistry([second, first]).route("gpt-4o", "chat.completions") is second


@pytest.mark.parametrize("model", ["gpt-*", "o[0-9]*", "*"])
def test_a_pattern_is_refused_as_a_model_name(model: str) -> None:
    """A client that sends a pattern gets an error from IBEX, even if another pattern matches it."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*", "o[0-9]*", "*")])

    with pytest.raises(ProviderNotConfiguredError):
        registry.route(model, "chat.completions")


def test_two_providers_with_the_same_pattern_raise() -> None:
    """The message names both providers and the pattern."""
    with pytest.raises(ValueError, match=r"one and two both claim the model gpt-\*"):
        ProviderRegistry([provider_of("one", "gpt-*"), provider_of("two", "echo", "gpt-*")])


def test_patterns_are_listed_with_their_providers() -> None:
    """They are in the order of configuration. The list is empty without providers."""
    registry = ProviderRegistry([provider_of("openai", "gpt-*", "o1"), provider_of("echo", "echo")])

    assert registry.patterns == (("gpt-*", "openai"), ("o1", "openai"), ("echo", "echo"))
    assert ProviderRegistry([]).patterns == ()


def test_each_provider_is_listed_once() -> None:
    """Providers are in the order of configuration."""
    openai, echo = provider_of("openai", "gpt-*", "o1"), provider_of("echo", "echo")

    assert ProviderRegistry([openai, echo]).providers == (openai, echo)


def test_the_reprs_of_bodies_and_events_contain_no_text() -> None:
    """They show the number of bytes."""
    assert repr(ProviderBody(b"secret")) == "<ProviderBody 6 bytes>"
    assert repr(StreamEvent(b"data: secret\n\n", b"secret")) == "<StreamEvent 14 bytes>"
