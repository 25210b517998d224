"""The lines of a run's ``metrics.jsonl``, read without trusting them; needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.errors import CogViewError
from cogview.files import is_regular, parse_json, read_bytes

MAX_BYTES = 256 << 20
NUMBERS = ("train", "evaluate")  # kinds of lines that hold nothing else


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All good lines in order; [] where there is no file.

    Left out are lines that a kill, a full disk or a flipped bit damaged: each is an object with a
    ``kind`` and a whole ``step``; in those of training and evaluation everything else is a number or None.
    """
    if not is_regular(path):
        return []
    found = []
    for line in read_bytes(path, MAX_BYTES).split(b"\n"):
        try:
            value = parse_json(line, "the line") if line.strip() else None
        except CogViewError:
            continue
        if isinstance(value, dict) and _is_good(value):
            found.append(value)
    return found


def _is_good(line: dict[str, Any]) -> bool:
    kind, step = line.get("kind"), line.get("step")
    if not isinstance(kind, str) or type(step) is not int or not 0 <= step < 1 << 53:
        return False
    others = (value for name, value in line.items() if name not in ("kind", "step"))
    return kind not in NUMBERS or all(value is None or type(value) in (int, float, bool) for value in others)
