"""The warning about a forward proxy in the environment that requests to the provider do not use."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ibex.entrypoints.openai_settings import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.entrypoints.openai_settings import OpenAISettings


def ignored_proxy(settings: OpenAISettings, environ: Mapping[str, str]) -> str | None:
    """Return a message if the environment has a proxy for the provider's host and the transport ignores it, else None.

    The message names the variable and not its value, which may contain a password.
    """
    if settings.openai_api_key is None or settings.openai_transport is not Transport.DIRECT:
        return None
    url = urlsplit(settings.openai_base_url)
    variable = _proxy_variable(url.scheme, environ)
    if variable is None or url.hostname is None or _is_excluded(url.hostname, environ):
        return None
    return (
        f"{variable} is set, but IBEX_OPENAI_TRANSPORT=direct connects to {url.hostname} without a proxy."
        f" Set IBEX_OPENAI_TRANSPORT=httpx to use the proxy, or add {url.hostname} to NO_PROXY."
    )


def _proxy_variable(scheme: str, environ: Mapping[str, str]) -> str | None:
    """Return the variable that sets the proxy, or None. Lower case takes precedence, even if it is empty."""
    for name in (f"{scheme}_proxy", "all_proxy"):
        found = name if name in environ else name.upper()
        if environ.get(found):
            return found
    return None


def _is_excluded(host: str, environ: Mapping[str, str]) -> bool:
    """Return whether NO_PROXY names the host, a domain that it is in, or all hosts (``*``)."""
    excluded = environ.get("no_proxy", environ.get("NO_PROXY", "")).lower().split(",")
    names = [name.strip().lstrip(".") for name in excluded]
    return any(name in {"*", host} or host.endswith(f".{name}") for name in names if name)
