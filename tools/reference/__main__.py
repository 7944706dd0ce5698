"""Write the generated pages of docs/reference: ``python -m tools.reference [--check]``.

``--check`` writes nothing and exits with 1 if a page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.reference import clickhouse, commands, errors, http, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/cli.md": commands.page,
    "docs/reference/errors.md": errors.page,
    "docs/reference/http.md": http.page,
    "docs/reference/schema-clickhouse.md": clickhouse.page,
    "docs/reference/schema-postgres.md": postgres.page,
}


def main(arguments: list[str]) -> int:
    """Write the pages and return 0. With ``--check``, write nothing and return 1 if a page is out of date."""
    stale = []
    for name, page in PAGES.items():
        path, text = Path(name), page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run `make reference`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
