"""TLS for both ends, mutual where both are given what it takes. Certificates and keys are PEM; no repr shows a key."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate chain and key; with ``client_ca`` only clients with a certificate of it may connect."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return them as gRPC takes them. What is no PEM shows when a port is bound."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom the client trusts, gRPC's own list if ``ca`` is None; and its certificate chain and key, if it has any."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a certificate without its key, or a key without its certificate."""
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("a client's certificate and key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return them as gRPC takes them. What is no PEM shows when connecting fails."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
