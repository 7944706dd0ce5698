"""Tests of a TLS context without a connection: its CAs and its saved session."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from ibex.adapters.http_client.tls import client_context

if TYPE_CHECKING:
    from pathlib import Path


def test_certificates_and_names_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mozilla's CAs are the default."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    context = client_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509_ca"] > 50


def test_the_certificate_authorities_of_the_environment_replace_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``SSL_CERT_FILE`` names the only bundle that is loaded."""
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert client_context().cert_store_stats()["x509_ca"] == 1


def test_certificate_authorities_that_cannot_be_read_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error is raised at start, when the context is created."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(OSError, match="No such file"):
        client_context()


def test_connections_without_a_session_save_none() -> None:
    """These are plain TCP connections, and TLS connections without a session."""
    context = client_context()
    context.save_session(None)
    layer = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="provider.example")
    context.save_session(layer)
    assert context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="provider.example").session is None
