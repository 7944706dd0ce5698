"""The parsers of setting values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ibex.entrypoints import setting_values as values
from ibex.entrypoints.setting_values import EMBEDDED_PEPPER, Secret, is_for_development

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "AAECAwQFBgcICQoLDA0ODw=="


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (values.int_between(0, 9), "9", 9),
        (values.seconds, "0.05", 0.05),
        (values.delay, "0", 0.0),
        (values.idle_seconds, "60", 60.0),
        (values.on_off, "ON", True),
        (values.url("http"), "http://x", "http://x"),
        (values.globs, "gpt-*, o1", ("gpt-*", "o1")),
        (values.host_and_port, "[::1]:9091", "[::1]:9091"),
        (values.auth_addresses, "auth:9091", "auth:9091"),
        (values.auth_addresses, "dns:///auth:9091", "dns:///auth:9091"),
        (values.auth_addresses, "10.0.0.1:9091, [::1]:9092", "10.0.0.1:9091,[::1]:9092"),
    ],
)
def test_a_valid_value_is_parsed(parse: Callable[[str], Any], text: str, expected: object) -> None:
    """Each parser returns a value of the setting's type."""
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.int_between(0, 9), "10"),
        (values.seconds, "0"),
        (values.seconds, "86401"),
        (values.seconds, "nan"),
        (values.delay, "-1"),
        (values.idle_seconds, "59"),
        (values.idle_seconds, "nan"),
        (values.on_off, "yes"),
        (values.url("http"), "https://x"),
        (values.globs, " , "),
        (values.text, ""),
        (values.host_and_port, "9091"),
        (values.host_and_port, ":9091"),
        (values.host_and_port, "host:70000"),
        (values.auth_addresses, "auth"),
        (values.auth_addresses, "auth:9091,"),
        (values.auth_addresses, "https://auth:9091"),
        (values.auth_addresses, "dns://resolver/auth:9091"),
        (values.service_token, "short"),
        (values.peppers, "k"),
        (values.peppers, f":{KEY}"),
        (values.peppers, "k:AAAA"),
        (values.peppers, "k:not base64"),
    ],
)
def test_an_invalid_value_raises(parse: Callable[[str], Any], text: str) -> None:
    """The settings turn these errors into one message."""
    with pytest.raises((ValueError, KeyError)):
        parse(text)


def test_a_secret_is_not_printed() -> None:
    """Neither its own repr nor that of a container shows the value."""
    secret = values.secret_url("postgresql")("postgresql://u:canary@h/d")

    assert "canary" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "postgresql://u:canary@h/d"
    assert secret == Secret("postgresql://u:canary@h/d") != Secret("another")
    assert len({secret, Secret(secret.reveal())}) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Secret("postgresql://u:postgres@h/d"), True),
        (Secret("redis://:Password@h/0"), True),
        (Secret("postgresql://u:9f2c71aa@h/d"), False),
        (Secret("postgresql://u@/d?host=/run"), False),
        (Secret({EMBEDDED_PEPPER: bytes(range(32))}), True),
        (Secret({"k": bytes(32)}), True),
        (Secret({"k": bytes(range(32))}), True),
        (Secret({"k": b"pepperpepperpepper"}), True),
        (Secret({"k": b"\xae\x4d\xe5\x5f\x4b\xd6\xab\x57\x0e\xd9\xba\x95\x62\x9e\xec\xf6"}), False),
        (Secret("redis://:p%61ssword@h/0"), True),
        (Secret("redis://h/0?password=changeme"), True),
        (Secret("postgresql://h/d?user=app_user&password=app_user"), True),
        (Secret("sk-something"), False),
        ("http://u:postgres@h", False),
    ],
)
def test_credentials_for_development_are_detected(value: object, *, expected: bool) -> None:
    """These are guessable passwords and keys, and the pepper that `ibex dev` generates."""
    assert is_for_development(value) is expected
