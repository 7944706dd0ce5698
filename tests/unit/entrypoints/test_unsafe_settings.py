"""Messages about unsafe settings. ``test_settings`` has each case."""

from __future__ import annotations

from ibex.entrypoints.settings import Settings, variables
from ibex.entrypoints.unsafe_settings import incomplete_tls, unsafe_credential


def test_incomplete_tls_and_a_weak_password_are_reported() -> None:
    """The messages name the variables."""
    assert "IBEX_AUTH_KEY_FILE" in (incomplete_tls(Settings(auth_cert_file="x"), variables()) or "")
    assert "PGPASSWORD" in (unsafe_credential(Settings(), variables(), (), {"PGPASSWORD": "ibex"}) or "")
