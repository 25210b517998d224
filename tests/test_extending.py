"""``docs/extending.md`` is true: its files, in a copy of the package, do what the page says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cogview

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/extending.md"
BLOCK = re.compile(r'^```(\w+) title="(.+?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LARGEST = 3  # files that an example may touch


def examples() -> dict[str, list[tuple[str, str, str]]]:
    """(language, title, text) of the blocks under each heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.partition("\n")[0]: BLOCK.findall(part) for part in parts}


def put(root: Path, language: str, title: str, text: str) -> None:
    """Write a new file, or add a diff's lines after those that stand before them."""
    path = root / title
    if language != "diff":
        assert not path.exists(), f"{title} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    lines = text.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] == " ")
    after = "".join(line[1:] for line in lines)
    there = path.read_text(encoding="utf-8")
    assert there.count(before) == 1, f"{title} has no such lines"
    path.write_text(there.replace(before, after), encoding="utf-8")


def program(language: str, text: str) -> str:
    """A block's commands as lines of Python."""
    if language == "python":
        return text
    lines = []
    for words in (shlex.split(line) for line in text.splitlines() if line):
        module = {"cogview": "cogview.cli.app", "pytest": "pytest"}[words[0]]
        lines.append(f"import {module}; assert {module}.main({words[1:]!r}) == 0")
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_an_example_touches_three_files_and_runs(name: str, tmp_path: Path) -> None:
    source, copy = Path(cogview.__file__).parent, tmp_path / "src/cogview"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("models"))  # what is compiled stays so
    (copy / "models").symlink_to(source / "models")
    blocks = examples()[name]
    files = [block for block in blocks if block[1] != "run"]
    assert len(files) == len({title for _, title, _ in files}) == LARGEST
    for block in files:
        put(tmp_path, *block)
    whole = "\n".join(program(language, text) for language, title, text in blocks if title == "run")
    done = subprocess.run(
        [sys.executable, "-c", whole],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_examples_are_found() -> None:
    """Every block of the page belongs to an example, and every example runs something."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(examples()) == 2
    assert sum(map(len, examples().values())) == text.count("```") // 2
    assert all(any(title == "run" for _, title, _ in blocks) for blocks in examples().values())
