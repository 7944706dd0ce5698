"""Detection of weak passwords, tokens and keys."""

from __future__ import annotations

import base64
import secrets

import pytest

from ibex.entrypoints.credentials import SERVER_OF, is_weak_key, is_weak_password, is_weak_token, passwords_in
from ibex.entrypoints.settings import variables


@pytest.mark.parametrize(
    "password",
    [
        *("password", "Password1", "change-me", "CHANGE_ME!", "postgres123", "ibex_app", "foobared", "admin"),
        *("1234", "0000000", "aaaaaaaaaaaa", "abcabcabc", "abcdefghij", "987654321", "x"),
    ],
)
def test_weak_passwords(password: str) -> None:
    """Common words are weak in any case and with a number after them, and so are patterns."""
    assert is_weak_password(password)


@pytest.mark.parametrize("password", ["8d1f77c2", "correct horse battery", "passwordless-kudzu", "zq9-Lw!3"])
def test_strong_passwords(password: str) -> None:
    """A strong password can contain a common word."""
    assert not is_weak_password(password)


@pytest.mark.parametrize(
    "token",
    [
        "a" * 32,
        "ab" * 16,
        "0123456789abcdef" * 2,
        "aaaabbbbccccddddaaaabbbbccccdddd!",
        "your-token-goes-here-" + "z9" * 8,
    ],
)
def test_weak_tokens(token: str) -> None:
    """Repetitions, few different characters and placeholders are weak."""
    assert is_weak_token(token)


def test_random_credentials_are_strong() -> None:
    """The encoding does not matter."""
    for _ in range(200):
        key = secrets.token_bytes(16)
        assert not is_weak_key(key)
        for text in (key.hex(), base64.b64encode(secrets.token_bytes(32)).decode(), secrets.token_urlsafe(24)):
            assert not is_weak_token(text)
            assert not is_weak_password(text)


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("redis://h", []),
        ("redis://u:p%40ss@h", ["p@ss"]),
        ("postgresql://u:a@h1,h2/d?password=b&sslpassword=c", ["a", "b", "c"]),
        ("redis+sentinel://kim:secret@one:1,[::1]:2/main", ["secret"]),
        ("https://h?password=", []),
    ],
)
def test_passwords_are_found_in_all_parts_of_a_url(url: str, passwords: list[str]) -> None:
    """They can be before the host or in the query, and are decoded."""
    assert passwords_in(url) == passwords


def test_every_server_of_the_settings_is_known() -> None:
    """A new URL setting cannot be forgotten. Spans can be sent without a credential."""
    urls = {name for name, variable in variables() if variable.is_secret and name.endswith("_url")}

    assert set(SERVER_OF) == urls
