"""docs/papers.md is true: what it names exists, its commands parse, its numbers are those of their files."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cogview.cli.app import VERBS, UsageError, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
SOURCES, RESULTS = ROOT / "src" / "cogview", ROOT / "benchmarks" / "results"
NUMBER = re.compile(r"(-?[\d,]*\.?\d+) ?(%?)<!-- ([\w.-]+\.json): (.+?) -->")
SPAN = re.compile(r"`([^`\n]+)`")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| paper |")
]


def names_of(node: ast.AST, before: str = "") -> set[str]:
    """Dotted names of functions, classes, their methods and fields."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            found |= {before + child.name, *names_of(child, f"{before}{child.name}.")}
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found.add(before + child.target.id)
    return found


@pytest.mark.parametrize("span", sorted(set(re.findall(r"`([\w/]+\.py:[\w.]+)`", TEXT))))
def test_every_file_and_name_is_there(span: str) -> None:
    file, _, name = span.partition(":")
    assert name in names_of(ast.parse((SOURCES / file).read_text(encoding="utf-8")))


def commands() -> list[str]:
    starts = ("cogview ", "python ")
    return sorted({span for span in SPAN.findall(TEXT) if span.startswith(starts) and " " in span.strip()})


@cache
def verb(name: str) -> Any:
    return load(next(one for one in VERBS if one.name == name))


def parse_cogview(words: list[str]) -> None:
    """Find the verb and let click parse; what the values name need not be there."""
    command: Any = verb(words[0])
    words = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    if words:  # a verb alone is mentioned, not called
        command.make_context(command.name, list(words))


def parse_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own parser, which ends before anything is done where the arguments are good."""
    import argparse

    class Parsed(Exception):
        """The arguments were good."""

    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        original(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str((ROOT / words[0]).parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    if words[0] == "python":
        parse_python(words[1:], monkeypatch)
    else:
        parse_cogview(words[1:])
    for word in words:
        if re.match(r"(recipes|benchmarks|examples)/", word):
            assert (ROOT / word).exists()


def test_a_wrong_command_does_not_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        parse_cogview(shlex.split("eval coco --captions a --pictured b"))
    with pytest.raises(SystemExit):
        parse_python(["benchmarks/three_region.py", "--faster"], monkeypatch)


def quoted() -> list[tuple[str, str, str, str]]:
    return NUMBER.findall(TEXT)


@pytest.mark.parametrize(("number", "percent", "file", "path"), quoted())
def test_every_number_is_the_one_in_its_file(number: str, percent: str, file: str, path: str) -> None:
    value = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    for key in path.split(" / "):
        value = value[int(key)] if isinstance(value, list) else value[key]
    number = number.replace(",", "")
    digits = len(number.partition(".")[2])
    assert f"{value * (100 if percent else 1):.{digits}f}" == number


def test_every_row_has_a_number_a_test_or_a_command_to_run() -> None:
    """The column "here": numbers with their file, or a link to a test or a file, or said not to be run."""
    assert len(ROWS) > 40 and len(quoted()) > 11
    for row in ROWS:
        if len(row) != 5 or set(row[0]) <= {"-", "|"}:
            continue
        here = row[3]
        links = re.findall(r"\]\(\.\./((?:tests|benchmarks)/[\w/.]+)", here)
        assert all((ROOT / link).exists() for link in links), row[0]
        assert links or "not run yet" in here or NUMBER.search(here), row[0]
        assert re.search(r"`(cogview|python) ", row[2]), row[0]
        plain = re.sub(r"<!--.*?-->|\[.*?\]\(.*?\)", "", NUMBER.sub("", here))
        assert not re.search(r"\d\.\d", plain), row[0]


def test_every_section_of_both_papers_is_there() -> None:
    for part in ("CogView", "CogView2", "Appendices"):
        assert re.search(rf"^##+ {part}$", TEXT, re.MULTILINE)
    for number in range(2, 18):  # figures 1 and 18 show samples
        spans = re.findall(r"figures? (\d+)(?:[a-z])?(?:–(\d+))?((?:, \d+)*)", TEXT)
        named = [range(int(a), int(b or a) + 1) for a, b, _ in spans]
        named += [[int(one) for one in re.findall(r"\d+", more)] for _, _, more in spans]
        assert any(number in some for some in named), number
    for word in ("2.1", "2.2", "2.3", "2.4", "3.3", "3.4", "4.1", "4.2", "4.3", "5.1", "5.2", "table 1"):
        assert word in TEXT
