"""redis-py's credential providers, loaded by the name of a factory function."""

from __future__ import annotations

from importlib import import_module

from redis.credentials import CredentialProvider


def credential_provider(name: str) -> CredentialProvider:
    """Call ``module:factory`` without arguments and return its provider, which redis-py calls for each connection.

    Raises ``ValueError`` if the module or the factory does not exist, or if it does not return a provider.
    """
    module, _, factory = name.partition(":")
    try:
        made = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot load {name} ({type(error).__name__}: {error})") from None
    if not isinstance(made, CredentialProvider):
        wrong = f"{name} must return a redis.credentials.CredentialProvider, not {type(made).__name__}"
        raise ValueError(wrong)  # noqa: TRY004 - a wrong setting
    return made
