"""A hook of MkDocs: reports what a page would load from another host. With ``--strict``, the build then fails."""

from __future__ import annotations

import logging
import re
from typing import Final

_LOG: Final = logging.getLogger("mkdocs.hooks.other_hosts")
_LOADED: Final = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon|preload|preconnect))[^>]*\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//[^\"'\s>)]+"
)


def loaded_from_other_hosts(html: str) -> list[str]:
    """Return the elements of a page that make a browser load something from another host. Links are allowed."""
    return [found[0] for found in _LOADED.finditer(html)]


def on_post_page(output: str, page: object, **_: object) -> str:
    """Check a page before it is written, and return it unchanged."""
    for found in loaded_from_other_hosts(output):
        _LOG.warning("%s loads from another host: %s", page, found)
    return output
