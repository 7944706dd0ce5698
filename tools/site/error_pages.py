"""A hook of MkDocs: adds the page ``errors/<code>`` for each error code, which leads to its section of the reference.

``IBEX_ERROR_DOCS_BASE`` can then be the address of the site and ``/errors``: the ``docs_url`` of an error is that base,
a slash and the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE: Final = "reference/errors.md"
_SECTION: Final = re.compile(r"^## ([A-Z][A-Z_]+)$", re.MULTILINE)
_PAGE: Final = """\
<!doctype html>
<title>{code}</title>
<meta http-equiv="refresh" content="0; url={target}">
<a href="{target}">{code}</a>
"""


def error_pages(reference: str) -> dict[str, str]:
    """Return the pages by their path in the site, given the text of the reference page."""
    target = f"../../{SOURCE.removesuffix('.md')}.html"
    return {
        f"errors/{code}/index.html": _PAGE.format(code=code, target=f"{target}#{code.lower()}")
        for code in _SECTION.findall(reference)
    }


def on_post_build(config: Mapping[str, str], **_: object) -> None:
    """Write the pages."""
    reference = (Path(config["docs_dir"]) / SOURCE).read_text(encoding="utf-8")
    for name, text in error_pages(reference).items():
        path = Path(config["site_dir"]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
