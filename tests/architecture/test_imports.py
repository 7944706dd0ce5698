"""The import contracts of pyproject.toml are kept, and a wrong import breaks them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ibex"
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

INWARD = "Imports go inward: entrypoints, then adapters, then domain"
INDEPENDENT = "No adapter package imports another"
LAYERED = "The packages of the domain are layers"
ALONE = "The libraries import no adapter"
HIDDEN = "Of the adapters, only the provider uses the libraries"
FORMATLESS = "The HTTP client knows no wire format"
PURE = "The domain imports no third-party package"
LEAN = "A worker imports nothing of the command line"
UNWIRED = "Only entrypoints import dependency-injector"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the package ``ibex`` in a folder against the contracts of its pyproject.toml."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the product with its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(SOURCE, tmp_path / "src" / "ibex", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_all_contracts_are_kept() -> None:
    """The list is complete, so each contract has a case in the next test."""
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout
    assert [line.removesuffix(" KEPT") for line in result.stdout.splitlines() if line.endswith(" KEPT")] == [
        INWARD,
        LAYERED,
        INDEPENDENT,
        ALONE,
        HIDDEN,
        FORMATLESS,
        PURE,
        LEAN,
        UNWIRED,
    ]


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("domain/ids.py", "import ibex.adapters.system.ids", INWARD),
        ("adapters/memory/epochs.py", "import ibex.entrypoints.settings", INWARD),
        ("adapters/memory/epochs.py", "from ibex.adapters.system import ids", INDEPENDENT),
        ("domain/identity/model.py", "import ibex.domain.record.exchange", LAYERED),
        ("domain/ids.py", "import ibex.domain.errors", LAYERED),
        ("adapters/openai_api/raw_json.py", "import ibex.adapters.system.ids", ALONE),
        ("adapters/http_server/drain.py", "import ibex.adapters.openai_api.raw_json", HIDDEN),
        ("adapters/http_client/retry.py", "import ibex.adapters.openai_api.raw_json", FORMATLESS),
        ("domain/ids.py", "import msgspec", PURE),
        ("entrypoints/proxy.py", "import ibex.entrypoints.cli.output", LEAN),
        ("adapters/memory/epochs.py", "from dependency_injector import containers", UNWIRED),
    ],
)
def test_a_wrong_import_breaks_its_contract(copy: Path, module: str, line: str, contract: str) -> None:
    """One wrong line in a copy of the source breaks its contract. The output names the contract and the module."""
    path = copy / "src" / "ibex" / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")

    result = lint_imports(copy)

    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout
    assert module.removesuffix(".py").replace("/", ".") in result.stdout


def test_every_adapter_package_is_under_contract() -> None:
    """A new package must be added to the contract of independence."""
    packages = sorted(p.parent.name for p in (SOURCE / "adapters").glob("*/__init__.py"))
    configuration = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert [name for name in packages if f'"ibex.adapters.{name}"' not in configuration] == []


@pytest.mark.parametrize("path", sorted((SOURCE / "domain").rglob("*.py")), ids=lambda path: path.stem)
def test_the_domain_imports_the_standard_library_and_itself(path: Path) -> None:
    """The contract forbids known packages only. This test forbids all third-party packages (ADR 0002)."""
    foreign = [
        name
        for name in _imported_packages(path.read_text(encoding="utf-8"))
        if name not in sys.stdlib_module_names and name != "ibex"
    ]

    assert foreign == []


def test_imports_of_third_party_packages_are_detected() -> None:
    """Both forms of import are found, at any depth of the module."""
    assert _imported_packages("import a.b, json\ndef f():\n  from c.d import e\n") == ["a", "c", "json"]


def _imported_packages(source: str) -> list[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return sorted(names)
