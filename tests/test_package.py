"""The package as an importer meets it."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import cogview

HEAVY = ("torch", "numpy", "pydantic", "PIL", "sentencepiece")


def test_import_brings_nothing_heavy() -> None:
    code = f"import sys, cogview; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_exported_name_is_there() -> None:
    for name, home in cogview._HOMES.items():
        assert getattr(cogview, name) is getattr(importlib.import_module(home), name)
    assert set(cogview.__all__) == set(dir(cogview))


def test_type_checkers_see_every_exported_name() -> None:
    tree = ast.parse(Path(cogview.__file__).read_text("utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        name.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == cogview._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cogview.nonsense


def test_every_file_says_what_it_is_for() -> None:
    package = Path(cogview.__file__).parent
    silent = [str(path) for path in package.rglob("*.py") if not path.read_text("utf-8").startswith('"""')]
    assert silent == []
