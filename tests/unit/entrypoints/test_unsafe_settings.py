"""What is unsafe is told; ``test_settings`` has each case."""

from __future__ import annotations

from ibex.entrypoints.settings import Settings, variables
from ibex.entrypoints.unsafe_settings import incomplete_tls, unsafe_credential


def test_half_of_tls_and_a_guessed_password_are_told() -> None:
    """By the names of their variables."""
    assert "IBEX_AUTH_KEY_FILE" in (incomplete_tls(Settings(auth_cert_file="x"), variables()) or "")
    assert "PGPASSWORD" in (unsafe_credential(Settings(), variables(), (), {"PGPASSWORD": "ibex"}) or "")
