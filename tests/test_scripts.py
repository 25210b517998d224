"""The scripts beside the package, most of which the suite does not run: what they import is there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cogview.errors import CogViewError

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path for name in ("benchmarks", "examples", "tools") for path in sorted((ROOT / name).rglob("*.py"))
]


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each name that a script imports from the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cogview":
            yield from ((node.module, name.name) for name in node.names)


def has(module: str, name: str) -> bool:
    """Whether a module has a name, or, where an extra that it needs is not installed, is there at all."""
    try:
        return hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}") is not None
    except CogViewError:
        return find_spec(module) is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # one script opens older commits as well
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_imports_what_the_package_has(path: Path) -> None:
    assert [f"{module}.{name}" for module, name in imported(path) if not has(module, name)] == []
