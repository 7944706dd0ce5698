"""Credential providers by name."""

from __future__ import annotations

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from ibex.adapters.redis.credentials import credential_provider


def given() -> UsernamePasswordCredentialProvider:
    """Return a provider, as an operator's function does."""
    return UsernamePasswordCredentialProvider("kim", "secret")


def test_a_provider_is_made_by_the_function_that_is_named() -> None:
    """Without arguments."""
    assert credential_provider(f"{__name__}:given").get_credentials() == ("kim", "secret")


@pytest.mark.parametrize("name", ["no.such.module:given", f"{__name__}:missing", "builtins:dict", "builtins:open"])
def test_a_provider_that_cannot_be_made_is_refused(name: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=name):
        credential_provider(name)
