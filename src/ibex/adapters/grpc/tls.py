"""TLS for server and client, optionally mutual. Certificates and keys are PEM. No repr shows a key."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate chain and key. With ``client_ca``, clients must have a certificate that it issued."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC credentials. gRPC reports invalid PEM only when it binds a port."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )


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
