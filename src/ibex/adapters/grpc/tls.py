"""TLS for server and client, optionally mutual. Certificates and keys are PEM. No repr shows a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate chain and key. With ``client_ca``, clients must have a certificate that it issued."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return gRPC's configuration. gRPC reports invalid PEM only when it binds a port."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca)


class RotatingServerTls:
    """Server credentials that can be replaced. Each TLS handshake uses the current ones; open connections stay."""

    def __init__(self, tls: ServerTls) -> None:
        self.current = tls
        self._presented = tls

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC credentials. Whether clients need a certificate cannot change later."""
        has_client_ca = self.current.client_ca is not None
        changed: Any = self._changed  # the type stub does not allow None, which means "unchanged"
        return grpc.dynamic_ssl_server_credentials(self.current.configuration(), changed, has_client_ca)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if it has changed since the last handshake. gRPC's threads call this."""
        current = self.current
        if current is self._presented:
            return None
        self._presented = current
        return current.configuration()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The CA that the client trusts (None: gRPC's default list), and its own certificate chain and key, if any."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a certificate without its key, or a key without its certificate."""
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("a client needs both a certificate and its key, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC credentials. gRPC reports invalid PEM only when connecting fails."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
