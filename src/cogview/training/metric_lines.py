"""Read a run's ``metrics.jsonl``, skipping damaged lines. This module does not import PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.errors import CogViewError
from cogview.files import is_regular, parse_json, read_bytes

MAX_BYTES = 256 << 20
NUMBERS = ("train", "evaluate")  # kinds of lines that contain only numbers


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All valid lines in order; [] if there is no file.

    Lines damaged by a kill, a full disk or a flipped bit are skipped: a valid line is an object with a
    ``kind`` and an integer ``step``; in those of training and evaluation all other values are numbers or
    None.
    """
    if not is_regular(path):
        return []
    lines = []
    for line in read_bytes(path, MAX_BYTES).split(b"\n"):
        try:
            value = parse_json(line, "the line") if line.strip() else None
        except CogViewError:
            continue
        if isinstance(value, dict) and _is_valid(value):
            lines.append(value)
    return lines


def _is_valid(line: dict[str, Any]) -> bool:
    kind, step = line.get("kind"), line.get("step")
    if not isinstance(kind, str) or type(step) is not int or not 0 <= step < 1 << 53:
        return False
    others = (value for name, value in line.items() if name not in ("kind", "step"))
    return kind not in NUMBERS or all(value is None or type(value) in (int, float, bool) for value in others)
