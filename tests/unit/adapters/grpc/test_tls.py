"""Tests of the TLS settings."""

from __future__ import annotations

import pytest

from ibex.adapters.grpc.tls import ClientTls, ServerTls


@pytest.mark.parametrize("parts", [(b"chain", None), (None, b"key")])
def test_a_client_needs_both_a_certificate_and_its_key(parts: tuple[bytes | None, bytes | None]) -> None:
    """Otherwise the mistake would appear only when connecting."""
    with pytest.raises(ValueError, match="both"):
        ClientTls(None, *parts)


def test_no_repr_shows_a_key() -> None:
    """This covers server and client."""
    assert "canary" not in repr(ServerTls(b"chain", b"canary")) + repr(ClientTls(None, b"chain", b"canary"))
