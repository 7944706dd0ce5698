"""The two source trees: the one of this file, and a commit that is checked out beside it."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.proxy.installation import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE: Final = ROOT


class UnknownCommitError(Exception):
    """Git does not know a commit; the message names it."""


def find_baseline(name: str | None, tree: Path = TREE) -> str:
    """Return the id of a commit. Without a name: where this branch left origin/main, or else the commit before HEAD.

    Raises ``UnknownCommitError``.
    """
    if name is not None:
        return _commit(tree, name)
    branched_off = _git(tree, "merge-base", "HEAD", "origin/main")
    if branched_off and branched_off != _commit(tree, "HEAD"):
        return branched_off
    return _commit(tree, "HEAD~1")


def describe(commit: str, tree: Path = TREE) -> str:
    """Return a commit's short id and subject."""
    return _git(tree, "log", "-1", "--format=%h (%s)", commit) or commit


def describe_tree(tree: Path = TREE) -> str:
    """Return short id and subject of the checked-out commit, and whether files of ``src`` differ from it."""
    changed = _git(tree, "status", "--porcelain", "--", "src")
    return describe("HEAD", tree) + (" with uncommitted changes" if changed else "")


@contextmanager
def checked_out(commit: str, tree: Path = TREE) -> Iterator[Path]:
    """Yield a folder with the files of a commit while the block runs."""
    with tempfile.TemporaryDirectory(prefix="ibex-baseline-") as folder:
        path = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", path, commit], cwd=tree, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", path], cwd=tree, check=True)


def require_importable(python: str, source: Path) -> None:
    """Raise ``RuntimeError`` unless this interpreter imports IBEX from a folder that ``PYTHONPATH`` names."""
    asked = [python, "-P", "-c", "import ibex; print(ibex.__path__[0])"]
    said = subprocess.run(asked, env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=False)
    if said.stdout.strip() != str(source / "ibex"):
        raise RuntimeError(f"{python} does not import IBEX from {source}: {said.stdout.strip()}{said.stderr[-300:]}")


def _commit(tree: Path, name: str) -> str:
    found = _git(tree, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not found:
        raise UnknownCommitError(f"Git does not know the commit {name!r}. Name another one with --base.")
    return found


def _git(tree: Path, *arguments: str) -> str:
    """Return the output of git; empty if it fails."""
    done = subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
