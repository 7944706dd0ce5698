"""TLS to a server: its certificate and name are always verified, sessions are resumed (RFC 8446, section 2.2)."""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

import certifi

_ALPN: Final = ["http/1.1"]


class ResumingContext(ssl.SSLContext):
    """A client's context that begins a connection with the session that an earlier one left, which spares a signature.

    Event loops have no argument for a session; they all make their TLS layer with ``wrap_bio``. For one server only.
    """

    _session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Make a TLS layer, with the last session where there is one."""
        kwargs.setdefault("session", self._session)
        return super().wrap_bio(*args, **kwargs)

    def remember(self, tls_layer: ssl.SSLObject | None) -> None:
        """Keep the session of a connection that has worked; its ticket comes after the handshake."""
        if tls_layer is not None and tls_layer.session is not None:
            self._session = tls_layer.session


def client_context() -> ResumingContext:
    """Return a context that trusts Mozilla's authorities or, where they are set, those of the environment.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are OpenSSL's own. Raises ``OSError`` if they cannot be read.
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        context.load_verify_locations(file or None, folder or None)
    else:
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(_ALPN)
    return context
