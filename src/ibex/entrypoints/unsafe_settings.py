"""Checks for insecure settings, with messages for the user. No message contains a value (ADR 0039)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.entrypoints.credentials import SERVER_OF, has_credential, is_weak_password, is_weak_token
from ibex.entrypoints.setting_values import is_for_development

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ibex.entrypoints.setting_values import Secret, Variable

_TLS_NEEDS: Final = (
    ("auth_cert_file", "auth_key_file"),
    ("auth_key_file", "auth_cert_file"),
    ("auth_client_ca_file", "auth_cert_file"),
    ("auth_client_cert_file", "auth_client_key_file"),
    ("auth_client_key_file", "auth_client_cert_file"),
    ("auth_client_cert_file", "auth_ca_file"),
)
"""Pairs of a TLS file and another file that it requires. The first three are for auth, the others for the proxy."""
_SERVICE_TOKENS: Final = ("auth_service_token", "auth_service_tokens")


def incomplete_tls(settings: object, variables: Sequence[tuple[str, Variable]]) -> str | None:
    """Return a message if a TLS file of proxy or auth is set without another file that it requires, else None."""
    names = {name: variable.name for name, variable in variables}
    for name, needed in _TLS_NEEDS:
        if getattr(settings, name) is not None and getattr(settings, needed) is None:
            return f"{names[name]} is set and {names[needed]} is not. Set both files, or neither."
    return None


def unsafe_credential(
    settings: object,
    variables: Sequence[tuple[str, Variable]],
    allowed: Collection[str],
    environ: Mapping[str, str],
) -> str | None:
    """Return a message for the first secret that is easily guessed or server without a credential, else None.

    Servers in ``allowed`` need no credential. ``environ`` is the environment of the process, where client libraries
    find credentials too.
    """
    if (password := environ.get("PGPASSWORD")) and is_weak_password(password):
        return "PGPASSWORD is easily guessed, which IBEX_ENV=production refuses. Set it to a random password."
    for name, variable in variables:
        value = getattr(settings, name)
        if (name in _SERVICE_TOKENS and _has_weak_token(value)) or is_for_development(value):
            return (
                f"{variable.name} is a development credential or easily guessed, which IBEX_ENV=production refuses."
                " Set it to a random value."
            )
        server = SERVER_OF.get(name)
        if server is None or value is None or server in allowed:
            continue
        if not has_credential(server, value.reveal(), environ):
            return (
                f"{variable.name} has no password or other credential, which IBEX_ENV=production refuses. Add one to"
                f" the URL, or set IBEX_ALLOW_INSECURE={server} to connect without."
            )
    return None


def _has_weak_token(tokens: Secret[str] | Secret[tuple[str, ...]] | None) -> bool:
    revealed = () if tokens is None else tokens.reveal()
    return any(map(is_weak_token, (revealed,) if isinstance(revealed, str) else revealed))
