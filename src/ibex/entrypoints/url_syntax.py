"""The syntax of URLs with a user name and a password, before any client library parses them.

Client libraries disagree about characters that are not percent-encoded, and their errors quote parts of the password.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

NOT_ENCODED: Final = (
    "it is not a well-formed URL: in a user name and in a password write # as %23, % as %25, / as %2F, ? as %3F and"
    " @ as %40; a port must be a number"
)
_MAX_PORT: Final = 65_535
_BARE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")


def is_well_formed(url: str) -> bool:
    """Return whether every client library splits a URL at the same places."""
    if "#" in url or _BARE_PERCENT.search(url):
        return False
    try:
        split_url(url)
    except ValueError:  # brackets that are no IPv6 address
        return False
    rest = url.partition("://")[2]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    if authority and ("@" in path or "@" in query.partition("=")[0]):  # the password has a / or a ?
        return False
    return authority.count("@") <= 1 and all(map(_is_host, authority.rpartition("@")[2].split(",")))


def split_url(url: str) -> SplitResult:
    """Split a URL, which may list several hosts; otherwise as ``urlsplit``, which raises ``ValueError``.

    Newer versions of Python refuse to split a URL with an IPv6 address among several hosts.
    """
    scheme, separator, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "," not in authority:
        return urlsplit(url)
    user, at, hosts = authority.rpartition("@")
    first, *others = hosts.split(",")
    for host in others:
        urlsplit(f"//{host}")
    parts = urlsplit(f"{scheme}{separator}{user}{at}{first}{rest[len(authority) :]}")
    return parts._replace(netloc=authority)


def _is_host(host: str) -> bool:
    """Return whether a text is a host with or without a port. Some URLs have none, or several."""
    found = _HOST.fullmatch(host)
    return found is not None and int(found["port"] or 0) <= _MAX_PORT
