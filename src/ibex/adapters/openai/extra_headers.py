"""Fixed headers that the operator adds to every request to the provider (ADR 0054)."""

from __future__ import annotations

import re
from typing import Final

AUTHORIZATION: Final = "authorization"
_SEPARATOR: Final = re.compile(r"[\r\n;]")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", re.ASCII)
_VALUE: Final = re.compile(r"[!-~]([ \t!-~]*[!-~])?", re.ASCII)
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers for one connection (RFC 9110, section 7.6.1), and ``Expect``, which the HTTP client does not support."""
_OF_EACH_REQUEST: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "tracestate",
    }
)
"""Headers that IBEX sets for each request."""


class ExtraHeaders:
    """Headers: names in lower case, and values as the operator wrote them. The repr shows only the names.

    An empty value, which only ``authorization`` can have, means that the header is not sent.
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._headers = headers

    def reveal(self) -> tuple[tuple[str, str], ...]:
        """Return the names and values."""
        return self._headers

    def over(self, own: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
        """Return IBEX's own headers followed by these, which replace own headers of the same name."""
        added = tuple((name.encode("ascii"), value.encode("ascii")) for name, value in self._headers)
        replaced = {name for name, _ in added}
        return (*(header for header in own if header[0] not in replaced), *(header for header in added if header[1]))

    def __repr__(self) -> str:
        return f"<ExtraHeaders {', '.join(name for name, _ in self._headers)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraHeaders) and self._headers == other._headers

    def __hash__(self) -> int:
        return hash(self._headers)


NO_HEADERS: Final = ExtraHeaders()


def parse_headers(text: str) -> ExtraHeaders:
    """Parse headers of the form ``Name: value``, separated by newlines or semicolons.

    Raises ``ValueError`` if a header is malformed, repeated or not allowed. The message never contains a value.
    """
    headers: dict[str, str] = {}
    parts = [part.strip(" \t") for part in _SEPARATOR.split(text)]
    for number, part in enumerate((part for part in parts if part), 1):
        name, colon, value = part.partition(":")
        if not colon or _NAME.fullmatch(name) is None:
            raise ValueError(f"header {number} is not of the form Name: value")
        name, value = name.lower(), value.strip(" \t")
        wrong = _why_wrong(name, value)
        if wrong is None and name in headers:
            wrong = "is set twice"
        if wrong is not None:
            raise ValueError(f"the header {name} {wrong}")
        headers[name] = value
    if not headers:
        raise ValueError("it contains no header")
    return ExtraHeaders(tuple(headers.items()))


def _why_wrong(name: str, value: str) -> str | None:
    """Return the reason why a header is invalid; None if it is valid."""
    if name in _HOP_BY_HOP:
        return "applies to one connection and cannot be set"
    if name in _OF_EACH_REQUEST:
        return "is set by IBEX and cannot be changed"
    if not value:
        return None if name == AUTHORIZATION else "has no value"
    return None if _VALUE.fullmatch(value) else "has a value with characters other than printable ASCII"
