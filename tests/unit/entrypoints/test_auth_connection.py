"""Checks of the certificates between proxy and auth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from ibex.entrypoints.auth_connection import check_files, client_tls, server_tls
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Complete settings of both ends."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    names = ("auth_ca", "auth_client_ca", "auth_cert", "auth_key", "auth_client_cert", "auth_client_key")
    paths: dict[str, Any] = {f"{n}_file": str(tmp_path / f"{'ca' if '_ca' in n else 'both'}.pem") for n in names}
    return Settings(**paths)


def test_matching_certificates_are_accepted(settings: Settings) -> None:
    """Without any, TLS is off."""
    check_files(settings)
    check_files(Settings())

    assert client_tls(settings) is not None
    assert server_tls(settings) is not None
    assert (client_tls(Settings()), server_tls(Settings())) == (None, None)


@pytest.mark.parametrize(
    ("field", "variable"),
    [
        ("auth_ca_file", "IBEX_AUTH_CA_FILE"),
        ("auth_client_ca_file", "IBEX_AUTH_CLIENT_CA_FILE"),
        ("auth_key_file", "IBEX_AUTH_CERT_FILE"),
        ("auth_client_cert_file", "IBEX_AUTH_CLIENT_CERT_FILE"),
    ],
)
def test_a_file_that_openssl_refuses_is_named(settings: Settings, tmp_path: Path, field: str, variable: str) -> None:
    """A half-written file, or a key that does not match its certificate."""
    other = trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes()
    for content in (b"", other[:40], other):
        (tmp_path / "wrong.pem").write_bytes(content)
        wrong: dict[str, Any] = {field: str(tmp_path / "wrong.pem")}
        with pytest.raises(ValueError, match=variable) as raised:
            check_files(replace(settings, **wrong))
        assert "PRIVATE" not in str(raised.value)
