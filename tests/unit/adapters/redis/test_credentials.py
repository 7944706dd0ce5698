"""Tests of loading credential providers by name."""

from __future__ import annotations

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from ibex.adapters.redis.credentials import credential_provider


def given() -> UsernamePasswordCredentialProvider:
    """Return a provider, as an operator's factory does."""
    return UsernamePasswordCredentialProvider("kim", "secret")


def test_the_named_factory_creates_the_provider() -> None:
    """The factory is called without arguments."""
    assert credential_provider(f"{__name__}:given").get_credentials() == ("kim", "secret")


@pytest.mark.parametrize("name", ["no.such.module:given", f"{__name__}:missing", "builtins:dict", "builtins:open"])
def test_a_name_that_refers_to_no_credential_provider_is_refused(name: str) -> None:
    """The error contains the value of the setting."""
    with pytest.raises(ValueError, match=name):
        credential_provider(name)
