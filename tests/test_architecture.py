"""The drawing of imports is that of today's code, and arrows go down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
pytest.importorskip("matplotlib")

from counts import circles, files_passed, sources  # noqa: E402
from import_map import OUT, arrows, layers  # noqa: E402


def test_rooms_import_downwards() -> None:
    level = {room: number for number, row in enumerate(layers()) for room in row}
    found = [pair for pair in arrows() if set(pair) <= set(level)]
    assert len(found) > 30 and ("cli", "evaluation") in found
    assert [pair for pair in found if level[pair[0]] >= level[pair[1]]] == []


def test_the_drawing_names_every_room() -> None:
    drawing = OUT.read_text("utf-8")
    assert [room for row in layers() for room in row if f">{room}<" not in drawing] == []


MOST_FILES = {"pictogram": 23, "pictogram-2": 37}  # that an image passes, from a loaded model to a PNG file


@pytest.mark.slow
@pytest.mark.parametrize("model", MOST_FILES)
def test_an_image_passes_few_files(model: str) -> None:
    """What a reader has to know; a module that only hands on is merged with what it serves."""
    passed = files_passed(ROOT, model, "loaded")
    assert "generation/loop.py" in passed and "transformer/attention/pattern.py" in passed
    assert len(passed) <= MOST_FILES[model], passed


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(sources(ROOT)) == []
