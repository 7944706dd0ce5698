"""A hook of MkDocs: shows ``CHANGELOG.md`` on the page ``changelog.md`` of the site, with links that lead there."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

PAGE: Final = "changelog.md"
SOURCE: Final = Path("CHANGELOG.md")


class _File(Protocol):
    src_uri: str


class _Page(Protocol):
    file: _File


def as_page(changelog: str) -> str:
    """Return the text of the changelog with links relative to ``docs/``."""
    return changelog.replace("](docs/", "](")


def on_page_markdown(markdown: str, page: _Page, **_: object) -> str:
    """Return the changelog for its page, and the text of every other page unchanged."""
    return as_page(SOURCE.read_text(encoding="utf-8")) if page.file.src_uri == PAGE else markdown
