"""Each page of docs/ is in the navigation of the site, each link leads somewhere, and no page needs another host.

``make docs`` checks the same with MkDocs, which this environment does not have.
"""

from __future__ import annotations

import re
import unicodedata
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pytest
from tools.site.changelog import as_page
from tools.site.error_pages import error_pages
from tools.site.other_hosts import loaded_from_other_hosts

from ibex.domain.errors import ErrorCode
from ibex.entrypoints.settings import variables
from ibex.entrypoints.settings_reference import COMMAND_LINE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAV = (DOCS / ".nav.yml").read_text(encoding="utf-8")
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
OUTSIDE = ["README.md", "CONTRIBUTING.md"]
FENCE = re.compile(r"^(`{3,}).*?^\1\s*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")


def patterns(nav: str) -> list[str]:
    """Return the pages and patterns of the navigation, in order."""
    lines = [line for line in nav.splitlines() if not line.lstrip().startswith("#")]
    return re.findall(r"[\w/!()*-]+\.md", "\n".join(lines))


def matches(page: str, pattern: str) -> bool:
    """Return whether a page is what a pattern means. ``!(README).md`` is every page but one."""
    besides = re.search(r"!\(([\w-]+)\)", pattern)
    if besides is None:
        return fnmatchcase(page, pattern)
    return fnmatchcase(page, pattern.replace(besides[0], "*")) and Path(page).stem != besides[1]


def without_code(text: str) -> str:
    """Return a page without its blocks of code."""
    text = FENCE.sub("", text)
    return "\n".join(line for line in text.split("\n") if not line.startswith("    "))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(without_code(text)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        words = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode("ascii")
        slug = base = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip().lower())
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}_{number}"
        found.add(slug)
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page to files or headings that do not exist."""
    broken = []
    for link in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = page.parent / name if name else page
        if target != page and not target.exists():
            broken.append(link)
        elif anchor and target.suffix == ".md":
            found = anchors(text if target == page else target.read_text(encoding="utf-8"))
            if anchor not in found:
                broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_the_navigation_once(page: str) -> None:
    """Add a new page to docs/.nav.yml, where people need it."""
    assert len([pattern for pattern in patterns(NAV) if matches(page, pattern)]) == 1


def test_the_navigation_names_no_page_that_is_missing() -> None:
    """Only an entry with ``ignore_no_matches`` can be missing: a page that is still to be written."""
    optional = patterns("\n".join(line for line in NAV.splitlines() if "ignore_no_matches: true" in line))
    missing = [one for one in patterns(NAV) if not any(matches(page, one) for page in PAGES)]

    assert [one for one in missing if one not in optional] == []


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), *OUTSIDE])
def test_links_lead_to_a_file_and_a_heading(page: str) -> None:
    """A page or heading that is renamed breaks the links to it."""
    assert broken_links(ROOT / page, (ROOT / page).read_text(encoding="utf-8")) == []


def test_links_of_the_changelog_lead_somewhere_on_the_site() -> None:
    """The changelog is a file of the repository, whose links the site rewrites."""
    page = as_page((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))

    assert LINK.findall(page)
    assert broken_links(DOCS / "changelog.md", page) == []


def test_links_of_the_site_stay_in_it() -> None:
    """MkDocs only knows the files in docs/."""
    outside = []
    for page in PAGES:
        for link in LINK.findall(without_code((DOCS / page).read_text(encoding="utf-8"))):
            target = ((DOCS / page).parent / link.partition("#")[0]).resolve()
            if not re.match(r"[a-z]+:", link) and not target.is_relative_to(DOCS):
                outside.append(f"{page}: {link}")

    assert outside == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# A page\n\nSee [here](#a-page) and [there](glossary.md#glossary).", []),
        ("# A page\n\nSee [here](#another-page).", ["#another-page"]),
        ("See [there](glossary.md#nothing).", ["glossary.md#nothing"]),
        ("See [there](missing.md).", ["missing.md"]),
        ("See ![a picture](pictures/missing.svg).", ["pictures/missing.svg"]),
        ("```\n[code](missing.md)\n```\n", []),
        ("## `IBEX_X`: it's *new*\n\n## Twice\n\n## Twice\n\n[1](#ibex_x-its-new) [2](#twice_1)", []),
        ("See [the web](https://example.org/missing.md).", []),
    ],
)
def test_broken_links_are_detected(text: str, broken: list[str]) -> None:
    """Anchors are those of MkDocs. Links in code are none."""
    assert broken_links(DOCS / "page.md", text) == broken


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("adr/")])
def test_a_page_names_only_settings_that_exist(page: str) -> None:
    """Decisions may name settings of their time. Tests have variables of their own; ``X_FILE`` is a file with ``X``."""
    known = {variable.name for _, variable in variables()} | set(COMMAND_LINE)
    named = set(re.findall(r"\b(?:IBEX|OPENAI)_[A-Z_]*[A-Z]\b", (DOCS / page).read_text(encoding="utf-8")))
    unknown = {name for name in named - known if name.removesuffix("_FILE") not in known}

    assert sorted(name for name in unknown if not name.startswith("IBEX_TEST_")) == []


def test_every_error_code_has_a_page_that_leads_to_its_section() -> None:
    """``docs_url`` of an error is ``IBEX_ERROR_DOCS_BASE``, a slash and the code."""
    reference = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    pages = error_pages(reference)

    assert set(pages) == {f"errors/{code}/index.html" for code in ErrorCode}
    assert "../../reference/errors.html#rate_limited" in pages["errors/RATE_LIMITED/index.html"]
    assert {code.lower() for code in ErrorCode} <= anchors(reference)


@pytest.mark.parametrize(
    ("html", "is_loaded"),
    [
        ('<script src="https://unpkg.com/x">', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
        ("<style>@import url(https://fonts.example/css)</style>", True),
        ('<img alt="" src=https://example.org/badge.svg>', True),
        ('<script src="assets/x.js">', False),
        ('<a href="https://example.org">', False),
        ('<link rel="canonical" href="https://example.org">', False),
    ],
)
def test_what_a_page_loads_from_another_host_is_detected(html: str, is_loaded: bool) -> None:  # noqa: FBT001
    """The build fails on a page that does. A link to another host loads nothing."""
    assert bool(loaded_from_other_hosts(html)) is is_loaded


def test_no_page_or_picture_loads_from_another_host() -> None:
    """Pages can contain HTML, and pictures can contain fonts."""
    paths = [*DOCS.rglob("*.md"), *DOCS.rglob("*.svg")]
    texts = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    assert {name: found for name, text in texts.items() if (found := loaded_from_other_hosts(text))} == {}
    assert [name for name, text in texts.items() if name.endswith(".svg") and re.search(r"url\(\W?http", text)] == []
    assert [name for name, text in texts.items() if re.search(r"!\[[^]]*\]\((?:https?:)?//", text)] == []
