"""redis-py's credential providers, by the name of what makes them."""

from __future__ import annotations

from importlib import import_module

from redis.credentials import CredentialProvider


def credential_provider(name: str) -> CredentialProvider:
    """Return what ``module:factory`` makes, without arguments; it is asked whenever a connection is made.

    Raises ``ValueError`` if there is no such module or factory, or it returns something else.
    """
    module, _, factory = name.partition(":")
    try:
        made = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{name} cannot be used ({type(error).__name__}: {error})") from None
    if not isinstance(made, CredentialProvider):
        raise ValueError(f"{name} returns no CredentialProvider of redis-py")  # noqa: TRY004 - a wrong setting
    return made
