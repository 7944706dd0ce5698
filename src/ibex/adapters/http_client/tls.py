"""TLS for client connections: certificate and host name are always verified, sessions are resumed (RFC 8446, 2.2)."""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

import certifi

_ALPN: Final = ["http/1.1"]


class ResumingContext(ssl.SSLContext):
    """A TLS context that resumes the session of an earlier connection, which saves a signature. For one server only.

    Event loops have no parameter for a session, but all of them create their TLS layer with ``wrap_bio``.
    """

    _session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Create a TLS layer, with the saved session if there is one."""
        kwargs.setdefault("session", self._session)
        return super().wrap_bio(*args, **kwargs)

    def save_session(self, tls_layer: ssl.SSLObject | None) -> None:
        """Save the session of a connection of this context.

        Call it after a response, because the ticket arrives after the handshake.
        """
        if tls_layer is not None and tls_layer.session is not None and tls_layer.context is self:
            self._session = tls_layer.session


def client_context() -> ResumingContext:
    """Return a context that trusts the CAs in ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, or Mozilla's if neither is set.

    Raises ``OSError`` if they cannot be read.
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some builds of Python have no minimum
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        context.load_verify_locations(file or None, folder or None)
    else:
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(_ALPN)
    return context
