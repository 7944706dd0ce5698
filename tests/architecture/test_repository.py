"""The repository contains no local paths, package registries or secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.ids import uuid7

ROOT = Path(__file__).parents[2]

# Each pattern is written so that it does not match itself in this file.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.~}>-])/(?:home|root|work|Users|tmp|builds)/[\w.]"),
    "a package registry": re.compile(
        r"index[_-]ur[l]|find[_-]link[s]|\bpyp[i]\.|pythonhoste[d]|artifactor[y]|regist[r]y\.npmjs|(?:UV|PIP)_[A-Z_]*IND[E]X",
        re.IGNORECASE,
    ),
    "a personal access token": re.compile(r"ibex_pat_[0-9a-f-]{36}_[\w-]{49}"),
    "a key of OpenAI's": re.compile(r"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{40,}"),
    "a private key": re.compile(r"-----BEGI[N] [A-Z ]*PRIVATE KEY"),
}


def files() -> list[Path]:
    """Return the tracked and untracked files, without ignored and deleted ones."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    paths = [ROOT / name for name in sorted(set(listed.stdout.decode().split("\0"))) if name]
    return [path for path in paths if path.is_file()]


def found_in(text: str) -> list[str]:
    """Return the forbidden content of a text."""
    found = [f"{what}: {match[0]}" for what, pattern in FORBIDDEN.items() for match in pattern.finditer(text)]
    return found + [f"this machine: {here}" for here in (f"{ROOT}/", f"{Path.home()}/") if here in text]


def test_no_file_contains_forbidden_content() -> None:
    """The test reads every text file of the repository."""
    offences = {}
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if found := found_in(text):
            offences[path.relative_to(ROOT).as_posix()] = found

    assert offences == {}


def test_the_list_of_files_covers_the_repository() -> None:
    """The list contains the source and not the virtual environment."""
    names = {path.relative_to(ROOT).as_posix() for path in files()}

    assert {"pyproject.toml", "src/ibex/domain/proxying/proxy_request.py"} <= names
    assert not any(name.startswith((".venv/", ".ibex/")) for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "home/kim/ibex",
        'PATH = "/' + 'root/.local/bin"',
        "see /" + "work/main",
        f"{ROOT}/Makefile",
        "pip install --index" + "-url https://example.org/simple",
        "PIP_EXTRA_IND" + "EX_URL=x",
        "UV_DEFAULT_IND" + "EX=x",
        "https://py" + "pi.org/simple",
        "https://files.python" + "hosted.org/packages",
        "api_key = sk-" + "a1B2" * 12,
        PersonalAccessToken.issue(uuid7(0, bytes(10)), bytes(32)).reveal(),
        "-----BEGIN" + " RSA PRIVATE KEY-----",
    ],
)
def test_forbidden_content_is_detected(text: str) -> None:
    """Each rule has a text that breaks it."""
    assert found_in(f"first\n{text}\nlast")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/page",
        "data/tmp/file",
        "ibex_pat_<token uuid>_<43 characters>",
        "sk-...",
        ".venv/bin/pip install -e .",
        "a registry of providers, an index of urls",
        "~/" + "work/ibex",
    ],
)
def test_allowed_content_is_not_reported(text: str) -> None:
    """The rules do not match similar text."""
    assert found_in(text) == []
