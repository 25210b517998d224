"""The drawing of imports is that of today's code, and arrows go down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
pytest.importorskip("matplotlib")

from import_map import OUT, arrows, layers  # noqa: E402


def test_rooms_import_downwards() -> None:
    level = {room: number for number, row in enumerate(layers()) for room in row}
    found = [pair for pair in arrows() if set(pair) <= set(level)]
    assert len(found) > 30 and ("cli", "evaluation") in found
    assert [pair for pair in found if level[pair[0]] >= level[pair[1]]] == []


def test_the_drawing_names_every_room() -> None:
    drawing = OUT.read_text("utf-8")
    assert [room for row in layers() for room in row if f">{room}<" not in drawing] == []
