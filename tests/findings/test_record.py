"""Every finding has tests that are there, can be collected and are not skipped everywhere."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.findings.__main__ import RECORD, node_ids

TESTS = Path(__file__).parents[1]
NAMES = [
    *(f"A{number}" for number in range(1, 14)), "B", *(f"C{number}" for number in range(1, 5)),
    "D", "E", "F4", "F5", "G",
]  # fmt: skip


@cache
def functions(path: Path) -> dict[str, list[str]]:
    """The tests of a module as pytest collects them, with the names of their decorators."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    return {
        part.name: [ast.unparse(one) for one in part.decorator_list]
        for part in module.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
    }


def test_every_finding_is_in_the_record() -> None:
    record = yaml.safe_load(RECORD.read_text(encoding="utf-8"))
    assert list(record) == NAMES
    assert all(entry["was"] and entry["tests"] for entry in record.values())


@pytest.mark.parametrize(("finding", "node"), [(name, node) for name in NAMES for node in node_ids(name)])
def test_its_tests_are_collected(finding: str, node: str) -> None:
    file, _, name = node.partition("::")
    path = TESTS.parent / file
    assert path.name.startswith("test_") and path.is_relative_to(TESTS)
    assert name in functions(path), f"{finding}: {node} is not there"
    assert not any("mark.skip(" in one or "mark.xfail" in one for one in functions(path)[name])
