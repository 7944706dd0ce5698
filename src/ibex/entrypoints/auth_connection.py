"""The connection between proxy and auth: service credential, and TLS at both ends."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ibex.adapters.grpc.channel import ChannelSecurity, GrpcAuthChannel
from ibex.adapters.grpc.tls import ClientTls, ServerTls
from ibex.adapters.telemetry.current_request import CURRENT
from ibex.entrypoints.setting_files import read_regular_file
from ibex.entrypoints.settings import SettingsError

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.ids import IdSource
    from ibex.entrypoints.settings import Settings


def auth_channel(settings: Settings, ids: IdSource) -> GrpcAuthChannel:
    """Return a proxy's client of auth. Raises ``SettingsError`` if a file of TLS cannot be used."""

    def request_id() -> UUID:
        current = CURRENT.get()
        return ids.uuid7() if current is None else current.request_id

    tokens = settings.service_tokens
    security = ChannelSecurity(tokens[-1] if tokens else None, client_tls(settings))
    return GrpcAuthChannel(
        settings.auth_address or "", request_id, security=security, timeout_s=settings.auth_timeout_s
    )


def client_tls(settings: Settings) -> ClientTls | None:
    """Return the proxy's TLS to auth, None if it is off. Raises ``SettingsError`` if a file cannot be used."""
    ca = read_file("IBEX_AUTH_CA_FILE", settings.auth_ca_file)
    certificate = read_file("IBEX_AUTH_CLIENT_CERT_FILE", settings.auth_client_cert_file)
    key = read_file("IBEX_AUTH_CLIENT_KEY_FILE", settings.auth_client_key_file)
    try:
        return None if ca is None else ClientTls(ca, certificate, key)
    except ValueError as wrong:
        raise SettingsError(f"IBEX_AUTH_CLIENT_CERT_FILE cannot be used: {wrong}.") from None


def server_tls(settings: Settings) -> ServerTls | None:
    """Return the TLS of auth's server, None if it is off. Raises ``SettingsError`` if a file cannot be read."""
    certificate = read_file("IBEX_AUTH_CERT_FILE", settings.auth_cert_file)
    key = read_file("IBEX_AUTH_KEY_FILE", settings.auth_key_file)
    if certificate is None or key is None:  # the settings reject one without the other
        return None
    return ServerTls(certificate, key, read_file("IBEX_AUTH_CLIENT_CA_FILE", settings.auth_client_ca_file))


def check_files(settings: Settings) -> None:
    """Raise ``ValueError`` if OpenSSL cannot use a certificate, key or CA of the TLS between proxy and auth."""
    _check_ca("IBEX_AUTH_CA_FILE", settings.auth_ca_file)
    _check_ca("IBEX_AUTH_CLIENT_CA_FILE", settings.auth_client_ca_file)
    _check_pair("IBEX_AUTH_CERT_FILE", settings.auth_cert_file, settings.auth_key_file)
    _check_pair("IBEX_AUTH_CLIENT_CERT_FILE", settings.auth_client_cert_file, settings.auth_client_key_file)


def _check_ca(variable: str, path: str | None) -> None:
    if path is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise ValueError(f"{variable} is not a CA in PEM format ({type(error).__name__})") from None


def _check_pair(variable: str, certificate: str | None, key: str | None) -> None:
    if certificate is None or key is None:
        return
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ValueError(f"{variable} and its key are not PEM files that match ({type(error).__name__})") from None


def read_file(variable: str, path: str | None) -> bytes | None:
    """Return the content of a file, None if ``path`` is None. Raises ``SettingsError`` if it cannot be read."""
    if path is None:
        return None
    try:
        return read_regular_file(path)
    except OSError as error:
        raise SettingsError(f"{variable} is {path!r}, which cannot be read ({error.strerror}).") from None
