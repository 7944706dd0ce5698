"""Rules for the location, size and names of files.

The module ``src/ibex/a/b.py`` is tested by its mirror ``tests/unit/a/test_b.py``. If it implements a port or needs a
real server, a suite in ``tests/contracts`` or ``tests/integration`` tests it instead and imports it by name.
``NOTHING_RUNS`` lists the modules without code, with the reason.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ibex"
TESTS = ROOT / "tests"

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "base", "manager", "managers", "misc"}
NOTHING_RUNS = {
    "adapters/http_server/observer.py": "a port of this adapter",
    "domain/clock.py": "a port",
    "adapters/http_client/failures.py": "exceptions",
    "adapters/http_server/representations.py": "bodies of responses",
    "adapters/openai_api/chat_schemas.py": "JSON Schemas, which the document's tests read",
    "adapters/openai_api/responses_schemas.py": "JSON Schemas, which the document's tests read",
    "domain/proxying/operation.py": "a port",
    "domain/record/history.py": "values and ports of reading what is on record",
    "domain/record/summary.py": "values",
    "adapters/openai_api/operations.py": "a list",
    "entrypoints/operations.py": "a list",
}
CLOCKS_AND_DICE = {"time", "random", "secrets", "os"}
IMPURE_NAMES = {"uuid1", "uuid4", "urandom", "utcnow", "today"}

GENERATED = "adapters/grpc/generated/auth_pb2"
MODULES = sorted(
    module
    for module in (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    if not module.startswith(GENERATED)
)


def tree_of(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.AST) -> set[str]:
    """Return the dotted names of the modules that are imported, and of the names imported from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def runs_something(tree: ast.Module) -> bool:
    """Return whether any function of a module contains more than a docstring."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    return any(
        isinstance(f, ast.Lambda)
        or not all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in f.body)
        for f in functions
    )


def impurities(tree: ast.AST) -> list[str]:
    """Return the names in a module that read a clock, the environment or randomness."""
    found = [name for name in imports_of(tree) if name.split(".")[0] in CLOCKS_AND_DICE]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [alias.name for alias in node.names if alias.name in IMPURE_NAMES]
        elif isinstance(node, ast.Attribute):
            of_a_class = isinstance(node.value, ast.Name | ast.Attribute) and _last_name(node.value) in {
                "datetime",
                "date",
            }
            if node.attr in IMPURE_NAMES or (node.attr == "now" and of_a_class):
                found.append(node.attr)
    return found


def _last_name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


@pytest.fixture(scope="module")
def imported_by_suites() -> set[str]:
    """The modules that the contract and integration suites import."""
    suites = [*(TESTS / "contracts").rglob("test_*.py"), *(TESTS / "integration").rglob("test_*.py")]
    return set().union(*(imports_of(tree_of(path)) for path in suites))


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__init__.py") and m not in NOTHING_RUNS])
def test_every_module_has_its_tests(module: str, imported_by_suites: set[str]) -> None:
    """The tests are in the mirror file, or in a suite that imports the module by name."""
    path = Path(module)
    mirror = TESTS / "unit" / path.parent / f"test_{path.stem.strip('_')}.py"
    dotted = ".".join(["ibex", *path.parent.parts, path.stem])

    assert mirror.exists() or dotted in imported_by_suites, f"{mirror.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("module", NOTHING_RUNS)
def test_modules_without_tests_contain_no_code(module: str) -> None:
    """An exempt module contains only values and protocols. Once it contains code, it needs tests."""
    assert not runs_something(tree_of(SOURCE / module))


@pytest.mark.parametrize("module", [m for m in MODULES if m.endswith("__init__.py")])
def test_package_modules_contain_a_docstring_and_no_code(module: str) -> None:
    """Code belongs in a named module. The package docstring describes its purpose."""
    tree = tree_of(SOURCE / module)

    assert ast.get_docstring(tree)
    assert not runs_something(tree)


@pytest.mark.parametrize(
    ("source", "runs"),
    [("def f():\n 'A port.'", False), ("X = 1", False), ("def f():\n return 1", True), ("f = lambda: 1", True)],
)
def test_code_in_a_module_is_detected(source: str, *, runs: bool) -> None:
    """A module with code cannot be exempt from tests."""
    assert runs_something(ast.parse(source)) is runs


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_below_the_line_limits(module: str) -> None:
    """More than 400 lines in a file, or 50 in a function, suggest that it has a second responsibility."""
    text = (SOURCE / module).read_text(encoding="utf-8")
    too_long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]

    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    assert too_long == []


def test_no_file_or_folder_has_a_generic_name() -> None:
    """Names such as ``utils`` do not describe their content."""
    paths = [*SOURCE.rglob("*.py"), *TESTS.rglob("*.py")]
    nameless = [path for path in paths if NAMES_THAT_SAY_NOTHING & _words(path.relative_to(ROOT))]

    assert nameless == []


def _words(path: Path) -> set[str]:
    return {word for part in path.with_suffix("").parts for word in part.split("_")}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("domain/")])
def test_the_domain_uses_neither_clocks_nor_randomness(module: str) -> None:
    """Time, randomness and ids are arguments or ports."""
    assert impurities(tree_of(SOURCE / module)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "from time import monotonic_ns",
        "import random",
        "from secrets import token_bytes",
        "import os\nos.urandom(1)",
        "from os import urandom",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.utcnow()",
        "from datetime import date\ndate.today()",
        "from uuid import uuid4",
        "import uuid\nuuid.uuid4()",
        "import uuid\nuuid.uuid1()",
    ],
)
def test_clocks_and_randomness_are_detected(source: str) -> None:
    """Each source breaks the rule."""
    assert impurities(ast.parse(source))


def test_calls_of_a_clock_port_are_allowed() -> None:
    """The domain reads the time through the ``Clock`` port."""
    assert impurities(ast.parse("from datetime import datetime\nself._clock.now()\nnotes.clock.monotonic_ns()")) == []
