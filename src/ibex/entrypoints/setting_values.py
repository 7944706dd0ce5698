"""Parsers of settings, which raise ``ValueError`` or ``KeyError``, and a type for secrets that no repr reveals."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ibex.entrypoints.credentials import Server, is_weak_key, is_weak_url
from ibex.entrypoints.url_syntax import NOT_ENCODED, is_well_formed

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_BASE_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
SECONDS: Final = "seconds, more than 0 and at most 86400"


class JournalSync(StrEnum):
    """The durability of the journal: ``NORMAL`` survives a crash of the process, ``FULL`` a power loss too."""

    NORMAL = "normal"
    FULL = "full"


class InvalidValueError(ValueError):
    """A value is invalid for the reason in the message, which contains no part of a secret."""


class Secret(Generic[T]):
    """A value that only ``reveal()`` returns. Its repr does not contain it. A changed file replaces it (ADR 0061)."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def replace(self, value: T) -> None:
        """Return this value from now on."""
        self._value = value

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: its parser, and its texts in messages and in the reference.

    ``parse`` raises ``ValueError`` or ``KeyError`` for an invalid value. ``allowed`` describes the valid ones.
    If ``is_secret``, no message contains the value.
    """

    name: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    is_secret: bool = False


def setting(default: Any, variable: Variable) -> Any:
    """Return a dataclass field whose value is read from a variable."""
    return field(default=default, metadata={"variable": variable})


def text(value: str) -> str:
    """Return a non-empty text."""
    if not value:
        raise ValueError
    return value


def int_between(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of integers from ``low`` to ``high``, both included."""

    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def cluster_name(value: str) -> str:
    """Return the name of a ClickHouse cluster."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", value):
        raise ValueError
    return value


def seconds(value: str) -> float:
    """Return a duration in seconds, more than 0 and at most a day."""
    number = float(value)
    if not 0 < number <= 86_400:  # noqa: PLR2004 - a day
        raise ValueError
    return number


def delay(value: str) -> float:
    """Return a duration in seconds, from 0 to a day."""
    return 0.0 if float(value) == 0 else seconds(value)


def idle_seconds(value: str) -> float:
    """Return a duration in seconds, from a minute to a year."""
    number = float(value)
    if not 60 <= number <= 31_536_000:  # noqa: PLR2004 - a minute, the minimum that PostgreSQL accepts, and a year
        raise ValueError
    return number


def on_off(value: str) -> bool:
    """Return True for ``on`` and False for ``off``, in any case. Raises ``KeyError`` for anything else."""
    return {"on": True, "off": False}[value.lower()]


def url(*schemes: str) -> Callable[[str], str]:
    """Return a parser of URLs with one of these schemes."""

    def parse(value: str) -> str:
        if value.partition("://")[0] not in schemes:
            raise ValueError
        return value

    return parse


def secret_url(*schemes: str) -> Callable[[str], Secret[str]]:
    """Return a parser of URLs that can contain a password. Raises ``InvalidValueError`` if it is not encoded."""
    parse = url(*schemes)

    def parse_secret(value: str) -> Secret[str]:
        if not is_well_formed(parse(value)):
            raise InvalidValueError(NOT_ENCODED)
        return Secret(value)

    return parse_secret


def secret_text(value: str) -> Secret[str]:
    """Return a non-empty text as a secret."""
    return Secret(text(value))


def module_and_name(value: str) -> str:
    """Return ``module:name``. Both are Python identifiers; the module can have dots."""
    module, _, name = value.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError
    return value


def globs(value: str) -> tuple[str, ...]:
    """Return patterns from a comma-separated list of at least one."""
    patterns = tuple(part.strip() for part in value.split(",") if part.strip())
    if not patterns:
        raise ValueError
    return patterns


def origins(value: str) -> tuple[str, ...]:
    """Return origins from a comma-separated list, as browsers write them, or ``*`` alone."""
    parts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    if parts == ("*",):
        return parts
    if not parts or not all(map(_ORIGIN.fullmatch, parts)):
        raise ValueError
    return tuple(part.removesuffix(_DEFAULT_PORTS.get(part.partition(":")[0], " ")) for part in parts)


def base_path(value: str) -> str:
    """Return a path without a trailing slash. Only unreserved characters (RFC 3986) are allowed in its segments."""
    path = value.removesuffix("/")
    if path and not _BASE_PATH.fullmatch(path):
        raise ValueError
    return path


def peppers(value: str) -> Secret[dict[str, bytes]]:
    """Return keys by id from a comma-separated list of ``id:base64``. A key has at least 16 bytes."""
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
    """Return ``host:port``. An IPv6 host is in brackets."""
    host, _, port = value.rpartition(":")
    if not host or not 0 <= int(port) <= 65_535:  # noqa: PLR2004 - TCP's
        raise ValueError
    return value


def auth_addresses(value: str) -> str:
    """Return a comma-separated list of ``host:port`` without blanks. Each address can have the prefix ``dns:///``."""
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if "/" in host_and_port(part.removeprefix("dns:///")):
            raise ValueError
    return ",".join(parts)


def service_token(value: str) -> Secret[str]:
    """Return a credential of at least 32 ASCII characters."""
    if len(value) < 32 or not value.isascii():  # noqa: PLR2004 - at least 128 bits, in any encoding
        raise ValueError
    return Secret(value)


def service_tokens(value: str) -> Secret[tuple[str, ...]]:
    """Return credentials from a comma-separated list, in its order."""
    return Secret(tuple(service_token(part.strip()).reveal() for part in value.split(",")))


def insecure_servers(value: str) -> tuple[str, ...]:
    """Parse a comma-separated list of servers. Raises ``ValueError`` for an unknown name."""
    return tuple(Server(part.strip().lower()).value for part in value.split(",") if part.strip())


EMBEDDED_PEPPER = "home"
"""The key id of the pepper that the embedded instance generates for itself."""


def is_for_development(value: object) -> bool:
    """Return whether a value is a secret of the embedded instance, or easily guessed."""
    if not isinstance(value, Secret):
        return False
    revealed = value.reveal()
    if isinstance(revealed, dict):
        return EMBEDDED_PEPPER in revealed or any(is_weak_key(pepper) for pepper in revealed.values())
    return isinstance(revealed, str) and "://" in revealed and is_weak_url(revealed)
