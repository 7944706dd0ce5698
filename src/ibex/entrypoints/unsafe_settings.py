"""What is wrong with settings that would fail open, in words for a user. No message holds a value (ADR 0039)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.entrypoints.credentials import SERVER_OF, has_credential, is_weak_password, is_weak_token
from ibex.entrypoints.setting_values import is_for_development

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ibex.entrypoints.setting_values import Variable

_TLS_NEEDS: Final = (
    ("auth_cert_file", "auth_key_file"),
    ("auth_key_file", "auth_cert_file"),
    ("auth_client_ca_file", "auth_cert_file"),
    ("auth_client_cert_file", "auth_client_key_file"),
    ("auth_client_key_file", "auth_client_cert_file"),
    ("auth_client_cert_file", "auth_ca_file"),
)
"""A file for TLS, and another that it needs. The first three are auth's, the others the proxy's."""
_SERVICE_TOKEN: Final = "auth_service_token"  # noqa: S105 - a setting's name


def incomplete_tls(settings: object, variables: Sequence[tuple[str, Variable]]) -> str | None:
    """Say which file for TLS between proxy and auth lacks another one; None if none does."""
    names = {name: variable.name for name, variable in variables}
    for name, needed in _TLS_NEEDS:
        if getattr(settings, name) is not None and getattr(settings, needed) is None:
            return f"{names[name]} is set and {names[needed]} is not. Set both: TLS needs the two together."
    return None


def unsafe_credential(
    settings: object,
    variables: Sequence[tuple[str, Variable]],
    allowed: Collection[str],
    environ: Mapping[str, str],
) -> str | None:
    """Say which secret is easily guessed, or which server asks for none; None if all is well.

    ``allowed`` names the servers that may go without. ``environ`` is what client libraries read themselves.
    """
    if (password := environ.get("PGPASSWORD")) and is_weak_password(password):
        return "PGPASSWORD is easily guessed; IBEX_ENV=production refuses it. Use a random one."
    for name, variable in variables:
        value = getattr(settings, name)
        weak_token = name == _SERVICE_TOKEN and value is not None and is_weak_token(value.reveal())
        if weak_token or is_for_development(value):
            return (
                f"{variable.name} is a development credential, or one that is easily guessed; IBEX_ENV=production"
                " refuses it. Use a random one."
            )
        server = SERVER_OF.get(name)
        if server is None or value is None or server in allowed:
            continue
        if not has_credential(server, value.reveal(), environ):
            return (
                f"{variable.name} has no password and no other credential; IBEX_ENV=production refuses that. Put one"
                f" into the URL, or allow it with IBEX_ALLOW_INSECURE={server}."
            )
    return None
