"""Tests of the summary of an audit."""

from __future__ import annotations

from typing import Any

from release.audit import NOT_AUDITED, VULNERABLE, summary_of

CLEAN = {"name": "one", "version": "1.0", "vulns": []}
BAD = {
    "name": "two",
    "version": "2.0",
    "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}, {"id": "CVE-2", "fix_versions": []}],
}
SKIPPED = {"name": "three", "skip_reason": "not found"}


def summary(*packages: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and the text for these packages."""
    code, lines = summary_of({"dependencies": list(packages)}, "a.lock")
    return code, "\n".join(lines)


def test_packages_without_vulnerabilities_pass() -> None:
    """The summary says how many packages were audited, and from which file."""
    assert summary(CLEAN, CLEAN) == (0, "a.lock: 2 packages audited, 0 vulnerabilities")


def test_each_vulnerability_is_listed_with_the_version_that_fixes_it() -> None:
    """An audit with vulnerabilities fails."""
    code, text = summary(CLEAN, BAD, SKIPPED)
    assert code == VULNERABLE
    assert "two 2.0: CVE-1 (fixed in 2.1)\ntwo 2.0: CVE-2 (fixed in no version yet)\n" in text
    assert "2 packages audited, 2 vulnerabilities" in text


def test_an_audit_of_nothing_is_not_a_clean_one() -> None:
    """Packages that the database does not know are named, and fail the audit."""
    code, text = summary(CLEAN, SKIPPED)
    assert code == NOT_AUDITED
    assert "1 packages were NOT audited" in text
    assert "three" in text
    assert summary()[0] == NOT_AUDITED
