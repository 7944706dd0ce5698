"""Tests of the comparison of the changelog with the version."""

from __future__ import annotations

import pytest
from release.changelog import changelog_problems

TITLE = "# Changelog\n\nThe format follows Keep a Changelog.\n\n"
PENDING = "## Unreleased\n\n### Fixed\n\n- A bug.\n\n"
RELEASED = "## 1.2.0 - 2026-11-30\n\n- A feature.\n\n## 1.1.9 - 2026-10-01\n\n- Another.\n"


@pytest.mark.parametrize("text", [RELEASED, "## Unreleased\n\n" + RELEASED])
def test_the_newest_release_is_the_version(text: str) -> None:
    """An empty section for unreleased changes is allowed."""
    assert changelog_problems(TITLE + text, "1.2.0") == []


@pytest.mark.parametrize(
    ("text", "version", "problem"),
    [
        (RELEASED, "1.3.0", "the newest release is 1.2.0, but the version is 1.3.0"),
        (RELEASED, "1.1.9", "the newest release is 1.2.0, but the version is 1.1.9"),
        (PENDING, "1.2.0", "the newest release is none, but the version is 1.2.0"),
        (PENDING + RELEASED, "1.2.0", "changes are listed under '## Unreleased'"),
        (RELEASED.replace("2026-11-30", "soon"), "1.2.0", "'## 1.2.0 - soon' is not"),
        (RELEASED.replace("## 1.1.9 - ", "## v1.1.9, "), "1.2.0", "'## v1.1.9, 2026-10-01' is not"),
    ],
    ids=["older", "newer", "never-released", "pending-changes", "no-date", "another-format"],
)
def test_a_changelog_that_does_not_fit_the_version_is_reported(text: str, version: str, problem: str) -> None:
    """The message names what was found, and what the version is."""
    (found,) = changelog_problems(TITLE + text, version)
    assert found.startswith(problem)


def test_a_draft_is_a_version_that_is_not_released_yet() -> None:
    """Its changes are under "Unreleased"."""
    assert changelog_problems(TITLE + PENDING, "0.1.0", is_draft=True) == []
    assert changelog_problems(TITLE + PENDING + RELEASED, "1.10.0", is_draft=True) == []


@pytest.mark.parametrize("version", ["1.2.0", "1.1.10", "1.0.0"])
def test_a_draft_has_a_higher_number_than_each_release(version: str) -> None:
    """Versions are compared as numbers."""
    (found,) = changelog_problems(TITLE + PENDING + RELEASED, version, is_draft=True)
    assert found.startswith("1.2.0 is released already")


def test_a_draft_without_changes_is_reported() -> None:
    """There is nothing to release."""
    assert changelog_problems(TITLE + RELEASED, "1.3.0", is_draft=True) == ["nothing is listed under '## Unreleased'"]
