"""ADR 0048 lists exactly the private names of dependencies that IBEX uses, and the names exist."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ibex.adapters.clickhouse import engine_server
from ibex.adapters.http_server.closable_protocol import ClosableHttpProtocol
from ibex.adapters.http_server.response_cycle import ResponseCycle
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.entrypoints.proxy_server import DrainingServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "adr" / "0048-private-names-of-dependencies.md").read_text()
ROW: Final = re.compile(r"^\| `([\w.]+)` \| (.+) \|$", re.MULTILINE)
LISTED: Final = {name: set(re.findall(r"`(\w+)`", names)) for name, names in ROW.findall(PAGE)}
SUBCLASSES: Final = (
    (ClosableHttpProtocol, HttpToolsProtocol),
    (LimitedHttpProtocol, HttpToolsProtocol),
    (ResponseCycle, RequestResponseCycle),
    (DrainingServer, uvicorn.Server),
    (engine_server._Server, uvicorn.Server),  # noqa: SLF001 - it is this project's own
)
UNDOCUMENTED: Final = re.compile(r"uvicorn\.(?!$)")
"""uvicorn documents its top-level names alone."""


def attributes(kind: type, targets: type[ast.expr_context] = ast.expr_context) -> set[str]:
    """Return the attributes of ``self`` that a class uses, or those that it sets."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, targets)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    }


def inherited(kind: type, base: type) -> set[str]:
    """Return the names of a base class that a class uses or overrides."""
    of_base = {name for name in vars(base) if not name.startswith("__")} | attributes(base, ast.Store)
    return of_base & (attributes(kind) | set(vars(kind)))


def imported() -> Iterator[tuple[str, str]]:
    """Return the private modules and names of other packages that the source imports."""
    for path in sorted((ROOT / "src" / "ibex").rglob("*.py")):
        if path.parent.name == "generated":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None or node.module.startswith(("ibex", "_")):
                continue
            is_private = UNDOCUMENTED.match(node.module) or "._" in node.module
            for alias in node.names:
                if is_private or (alias.name.startswith("_") and node.module != "__future__"):
                    yield node.module, alias.name


def test_every_private_import_is_listed() -> None:
    """The page lists names by module, and lists no unused name."""
    found: dict[str, set[str]] = {}
    for module, name in imported():
        found.setdefault(module, set()).add(name)
    assert found == {name: names for name, names in LISTED.items() if not is_class(name)}


def is_class(name: str) -> bool:
    """Return whether a row of the page is about a class."""
    return name.rpartition(".")[2][0].isupper()


@pytest.mark.parametrize("base", [HttpToolsProtocol, RequestResponseCycle, uvicorn.Server])
def test_every_inherited_name_is_listed(base: type) -> None:
    """The page lists the names of uvicorn's classes that IBEX's subclasses use or override."""
    used = set().union(*(inherited(kind, own) for kind, own in SUBCLASSES if own is base))
    assert used == LISTED[f"{base.__module__}.{base.__qualname__}"]


@pytest.mark.parametrize("name", [name for name in LISTED if not is_class(name)])
def test_every_listed_name_exists(name: str) -> None:
    """The installed version of the dependency defines the name."""
    module = import_module(name)
    typing_only = {"_Hash"}
    assert [one for one in LISTED[name] - typing_only if not hasattr(module, one)] == []


def test_uvicorn_has_an_upper_bound() -> None:
    """The next minor version may rename an undocumented name."""
    bound = re.search(r'"uvicorn>=[\d.]+,<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert bound is not None
    installed = tuple(map(int, uvicorn.__version__.split(".")[:2]))
    assert tuple(map(int, bound[1].split("."))) == (installed[0], installed[1] + 1)
