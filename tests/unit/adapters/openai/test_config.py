"""Tests of the configuration of the OpenAI provider."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from ibex.adapters.openai.config import DEFAULT_MODELS, ApiKey, OpenAIConfig

KEY = "sk-canary-77"


def test_the_repr_of_the_configuration_does_not_contain_the_key() -> None:
    """The repr of the key itself does not contain it either."""
    config = OpenAIConfig(api_key=ApiKey(KEY))
    assert config.api_key.reveal() == KEY
    assert KEY not in f"{config.api_key!r} {config.api_key} {config!r}"


@pytest.mark.parametrize("key", ["", f"{KEY}\r\nX-Evil: 1", f"{KEY}\n", f"Bearer {KEY}", f"{KEY}ü", f"{KEY}\x00"])
def test_an_invalid_key_is_refused(key: str) -> None:
    """The error does not contain the key."""
    with pytest.raises(ValueError, match="printable") as raised:
        ApiKey(key)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("https://[::1]:8443/openai/v1", "https://[::1]:8443/openai/v1/"),
    ],
)
def test_the_root_ends_with_a_slash(base_url: str, address: str) -> None:
    """The configured base URL may or may not end with one."""
    assert str(OpenAIConfig(api_key=ApiKey(KEY), base_url=base_url).root_url()) == address


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com/v1",
        "ftp://host/v1",
        "https://",
        "https:///v1",
        "https://user:secret-88@host/v1",
        "https://host/v1?key=secret-88",
        "https://host/v1#secret-88",
        "https://host:port-secret-88/v1",
    ],
)
def test_an_invalid_base_url_is_refused(base_url: str) -> None:
    """The configuration refuses it at start. The error does not contain the URL."""
    with pytest.raises(ValueError, match="base URL") as raised:
        OpenAIConfig(api_key=ApiKey(KEY), base_url=base_url)
    assert "secret-88" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("gpt-4o-mini", True),
        ("gpt-5", True),
        ("chatgpt-4o-latest", True),
        ("o1", True),
        ("o3-mini-2025-01-31", True),
        ("o4-mini", True),
        ("claude-3", False),
        ("omni-moderation", False),
        ("text-embedding-3", True),
    ],
)
def test_the_default_models_are_the_gpt_chatgpt_and_o_families(model: str, *, served: bool) -> None:
    """The default patterns do not match other names that begin with the same letter."""
    assert any(fnmatchcase(model, pattern) for pattern in DEFAULT_MODELS) is served
