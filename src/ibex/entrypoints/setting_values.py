"""What a setting is read with: parsers that raise ``ValueError`` or ``KeyError``, and secrets that do not show."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ibex.entrypoints.credentials import Server, is_weak_key, is_weak_url

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SECONDS: Final = "seconds, more than 0 and at most 86400"


class Secret(Generic[T]):
    """A value that shows itself through ``reveal()`` only."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Variable:
    """How one setting is read: ``parse`` raises ``ValueError``; ``allowed`` says what it takes, in words."""

    name: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    is_secret: bool = False


def setting(default: Any, variable: Variable) -> Any:
    """Return the field of a settings class that is read from a variable."""
    return field(default=default, metadata={"variable": variable})


def text(value: str) -> str:
    """Return a text that is not empty."""
    if not value:
        raise ValueError
    return value


def int_between(low: int, high: int) -> Callable[[str], int]:
    """Return what reads an integer from ``low`` to ``high``."""

    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def seconds(value: str) -> float:
    """Return a duration of more than 0 and at most a day."""
    number = float(value)
    if not 0 < number <= 86_400:  # noqa: PLR2004 - a day
        raise ValueError
    return number


def delay(value: str) -> float:
    """Return a duration of 0 to a day."""
    return 0.0 if float(value) == 0 else seconds(value)


def idle_seconds(value: str) -> float:
    """Return a duration of a minute to a year."""
    number = float(value)
    if not 60 <= number <= 31_536_000:  # noqa: PLR2004 - a minute, which PostgreSQL's function holds to, and a year
        raise ValueError
    return number


def on_off(value: str) -> bool:
    """Return whether it is on. Raises ``KeyError`` for anything but on and off."""
    return {"on": True, "off": False}[value.lower()]


def url(*schemes: str) -> Callable[[str], str]:
    """Return what reads a URL of one of these schemes."""

    def parse(value: str) -> str:
        if value.partition("://")[0] not in schemes:
            raise ValueError
        return value

    return parse


def secret_url(*schemes: str) -> Callable[[str], Secret[str]]:
    """Return what reads a URL that may hold a password."""
    parse = url(*schemes)
    return lambda value: Secret(parse(value))


def secret_text(value: str) -> Secret[str]:
    """Return a text that is not shown."""
    return Secret(text(value))


def module_and_name(value: str) -> str:
    """Return ``module:name``."""
    module, _, name = value.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError
    return value


def globs(value: str) -> tuple[str, ...]:
    """Return patterns that are separated by commas."""
    patterns = tuple(part.strip() for part in value.split(",") if part.strip())
    if not patterns:
        raise ValueError
    return patterns


def peppers(value: str) -> Secret[dict[str, bytes]]:
    """Return keys by their ids: ``id:base64`` of at least 16 bytes, separated by commas."""
    peppers = {}
    for part in value.split(","):
        key_id, _, encoded = part.strip().partition(":")
        try:
            pepper = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError from None
        if not key_id or len(pepper) < 16:  # noqa: PLR2004 - see TokenPeppers
            raise ValueError
        peppers[key_id] = pepper
    return Secret(peppers)


def host_and_port(value: str) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    host, _, port = value.rpartition(":")
    if not host or not 0 <= int(port) <= 65_535:  # noqa: PLR2004 - TCP's
        raise ValueError
    return value


def auth_addresses(value: str) -> str:
    """Return the addresses of auth without blanks: ``host:port`` each, separated by commas, perhaps with ``dns:///``."""
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if "/" in host_and_port(part.removeprefix("dns:///")):
            raise ValueError
    return ",".join(parts)


def service_token(value: str) -> Secret[str]:
    """Return a credential that is long enough not to be guessed."""
    if len(value) < 32 or not value.isascii():  # noqa: PLR2004 - 128 bits and more, however it is written
        raise ValueError
    return Secret(value)


def insecure_servers(value: str) -> tuple[str, ...]:
    """Parse a comma-separated list of servers. Raises ``ValueError`` for an unknown name."""
    return tuple(Server(part.strip().lower()).value for part in value.split(",") if part.strip())


EMBEDDED_PEPPER = "home"
"""The id of the pepper that the embedded default makes for itself."""


def is_for_development(value: object) -> bool:
    """Return whether a setting's value is a secret of the embedded default, or easily guessed."""
    if not isinstance(value, Secret):
        return False
    revealed = value.reveal()
    if isinstance(revealed, dict):
        return EMBEDDED_PEPPER in revealed or any(is_weak_key(pepper) for pepper in revealed.values())
    return "://" in revealed and is_weak_url(revealed)
