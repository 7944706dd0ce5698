"""The comparison of the changelog with the version of the project."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise
from typing import Final

_HEADING: Final = re.compile(r"^## (?P<title>.+?)[ \t]*$", re.MULTILINE)
_RELEASE: Final = re.compile(r"(?P<version>\d+\.\d+\.\d+\S*) - (?P<date>\S+)")


def changelog_problems(changelog: str, version: str, *, is_draft: bool = False) -> list[str]:
    """Return why a changelog does not fit a version, nothing if it does.

    The newest release must be the version, with a date, and nothing may be left under "Unreleased". A draft is a
    version before its release: its changes are under "Unreleased", and no release has its number or a higher one.
    """
    headings = list(_HEADING.finditer(changelog))
    ends = [*(following.start() for _, following in pairwise(headings)), len(changelog)]
    sections = [(found["title"], changelog[found.end() : end]) for found, end in zip(headings, ends, strict=True)]
    releases = [title for title, _ in sections if title != "Unreleased"]
    pending = "".join(text for title, text in sections if title == "Unreleased").strip()
    problems = [problem for title in releases if (problem := _problem_of_heading(title))]
    newest = releases[0].partition(" ")[0] if releases else None
    if is_draft:
        if not pending:
            problems.append("nothing is listed under '## Unreleased'")
        if newest is not None and _order(newest) >= _order(version):
            problems.append(f"{newest} is released already: raise the version {version} in pyproject.toml")
        return problems
    if newest != version:
        problems.append(
            f"the newest release is {newest or 'none'}, but the version is {version}: "
            f"rename '## Unreleased' to '## {version} - <date>', or correct the version in pyproject.toml"
        )
    elif pending:
        problems.append(f"changes are listed under '## Unreleased': move them to {version}, or raise the version")
    return problems


def _problem_of_heading(title: str) -> str | None:
    found = _RELEASE.fullmatch(title)
    if found is not None:
        try:
            date.fromisoformat(found["date"])
        except ValueError:
            found = None
    return None if found else f"'## {title}' is not '## <version> - <year>-<month>-<day>'"


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
