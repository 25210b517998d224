"""Where the things of a scene stand: boxes in a square of 256, by the outline of each drawing.

Things of one scene keep apart; only ``on`` and ``behind`` overlap, and so little that both stay recognisable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256  # pixels that boxes are given in
LEAST = 80  # a thing's longer side, at least; a third of the width less the gaps is a little under
EDGE, GAP = 5, 6  # free pixels at the border and between two things
GRID = 16  # cells a side of an outline
HALF = SIDE / 24  # pixels of half a code of the image tokenizer
SIDES = (74, 85, 107, 128, 149, 171, 192, 213, 235)  # longer sides of things on the codes' grid

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive


@dataclass(frozen=True)
class Outline:
    """What a drawing covers: the box that it fills, ``aspect`` wide for 1 high, in GRID rows of bits."""

    aspect: float
    rows: tuple[int, ...]

    @classmethod
    def of(cls, sprite: Image.Image) -> Outline:
        """The outline of an RGBA drawing, cut to what is drawn."""
        alpha = sprite.getchannel("A").point([0] * 64 + [255] * 192)
        cut = alpha.crop(alpha.getbbox())
        cells = np.asarray(cut.resize((GRID, GRID), Image.Resampling.BOX)) > 96
        bits = (cells * (1 << np.arange(GRID))).sum(1)
        return cls(cut.width / cut.height, tuple(int(row) for row in bits))

    @cached_property
    def cells(self) -> NDArray[np.bool_]:
        """The rows as booleans, (GRID, GRID)."""
        return (np.array(self.rows)[:, None] >> np.arange(GRID)) % 2 == 1

    @property
    def filled(self) -> float:
        """The covered share of the box."""
        return float(self.cells.mean())

    def size(self, wide: float, high: float) -> tuple[int, int]:
        """Width and height of the largest drawing in ``wide`` x ``high``."""
        width = min(wide, high * self.aspect)
        return max(1, round(width)), max(1, round(width / self.aspect))

    def top(self, left: float, right: float) -> float:
        """How far under the box's upper edge the drawing begins between two parts of its width (0 to 1)."""
        columns = self.cells[:, int(left * GRID) : max(int(left * GRID) + 1, round(right * GRID))]
        rows = np.flatnonzero(columns.any(1))
        return float(rows[0]) / GRID if len(rows) else 1.0


def covered(box: Box, outline: Outline, front: Box, over: Outline) -> float:
    """The share of one drawing that another, in front of it, covers."""
    rows, columns = np.nonzero(outline.cells)
    x = box[0] + (columns + 0.5) / GRID * (box[2] - box[0])
    y = box[1] + (rows + 0.5) / GRID * (box[3] - box[1])
    column = np.floor((x - front[0]) / (front[2] - front[0]) * GRID).astype(int)
    row = np.floor((y - front[1]) / (front[3] - front[1]) * GRID).astype(int)
    inside = (column >= 0) & (column < GRID) & (row >= 0) & (row < GRID)
    return float(over.cells[row[inside], column[inside]].sum()) / len(x)


def apart(first: Box, second: Box, gap: int = GAP - 2) -> bool:
    """Whether two boxes leave at least ``gap`` pixels between them."""
    across = max(first[0], second[0]) - min(first[2], second[2])
    down = max(first[1], second[1]) - min(first[3], second[3])
    return max(across, down) >= gap


def aligned(box: Box, outline: Outline, stands: bool) -> Box:
    """The box on the codes' grid: of one of ``SIDES``, not larger, its corner at a multiple of half a code.

    Its middle stays where it is, or its foot where it ``stands``. So a thing of one size is mostly the same
    codes wherever it is.
    """
    left, top, right, bottom = box
    side = max((one for one in SIDES if one <= max(right - left, bottom - top) + 3), default=SIDES[0])
    width, height = outline.size(side, side)
    start = bottom - height if stands else (top + bottom - height) / 2
    x, y = on_grid((left + right - width) / 2, width), on_grid(start, height)
    return x, y, x + width, y + height


def on_grid(start: float, size: int) -> int:
    """The multiple of half a code nearest to ``start`` from which ``size`` pixels lie in the square."""
    steps = min(round(start / HALF), int((SIDE - size) / HALF))
    return round(max(0, steps) * HALF)


def aligned_pair(first: Box, second: Box) -> list[Box]:
    """Two overlapping boxes, both larger or smaller by one factor, so that the second is on the grid."""
    left, top, right, bottom = second
    side = max(right - left, bottom - top)
    factor = max((one for one in SIDES if one <= side + 3), default=SIDES[0]) / side
    width, height = round((right - left) * factor), round((bottom - top) * factor)
    middle, foot = (left + right) / 2, bottom
    x, y = on_grid(middle - width / 2, width), on_grid(foot - height, height)
    wide, high = round((first[2] - first[0]) * factor), round((first[3] - first[1]) * factor)
    across, down = x + round((first[0] - left) * factor), y + round((first[1] - top) * factor)
    return [(across, down, across + wide, down + high), (x, y, x + width, y + height)]


def _cells(count: int) -> list[tuple[float, float]]:
    """Start and end of equal cells in the square's width, with edges and gaps taken off."""
    each = (SIDE - 2 * EDGE - (count - 1) * GAP) / count
    return [(EDGE + i * (each + GAP), EDGE + i * (each + GAP) + each) for i in range(count)]


def _in(chance: random.Random, low: float, high: float, size: int, stray: float) -> int:
    """Where a thing of ``size`` begins between low and high: the middle, or off it by part of the slack."""
    slack = high - low - size
    return round(low + slack / 2 + chance.uniform(-0.5, 0.5) * stray * slack)


def single(chance: random.Random, outline: Outline, low: int, high: int, place: tuple[int, int]) -> Box:
    """One thing, its longer side between low and high; ``place`` -1, 0 or 1 across and down."""
    side = chance.randint(low, high)
    width, height = outline.size(side, side)
    spots = []
    for size, where in ((width, place[0]), (height, place[1])):
        slack = SIDE - 2 * EDGE - size
        spots.append(round(EDGE + slack / 2 + slack * (where * 0.44 + chance.uniform(-0.06, 0.06))))
    return spots[0], spots[1], spots[0] + width, spots[1] + height


def rows(
    chance: random.Random, outlines: Sequence[Outline], lengths: Sequence[int], alike: bool, base: int | None
) -> list[Box]:
    """Things in rows of the given lengths, from left to right and downwards.

    ``alike``: all of one size. ``base``: where the feet of a single row stand; None: anywhere in their cells.
    """
    assert sum(lengths) == len(outlines)
    boxes: list[Box] = []
    shrink = chance.uniform(0.82, 1)
    narrow = min(right - left for left, right in _cells(max(lengths)))
    level = base is not None or chance.random() < 0.5
    for (top, bottom), length in zip(_cells(len(lengths)), lengths, strict=True):
        high = min(bottom - top, 165 if len(lengths) == 1 else bottom - top)
        foot = base if base is not None else bottom - (bottom - top - high) * chance.uniform(0.2, 0.8)
        for left, right in _cells(length):
            outline = outlines[len(boxes)]
            wide = narrow if alike else min(right - left, 165)
            width, height = outline.size(wide, high)
            factor = shrink if alike else chance.uniform(0.82, 1)
            factor = max(factor, min(1, LEAST / max(width, height)))
            width, height = outline.size(width * factor, height * factor)
            x = _in(chance, left, right, width, 0.7 if length > 1 else 0.3)
            y = round(foot - height) if level else _in(chance, top, bottom, height, 0.5)
            y = min(max(y, round(top)), round(bottom) - height)
            boxes.append((x, y, x + width, y + height))
    return boxes


def diagonal(chance: random.Random, outlines: Sequence[Outline]) -> list[Box]:
    """Things from one upper corner to the opposite lower one."""
    cells = _cells(len(outlines))
    columns = list(cells) if chance.random() < 0.5 else cells[::-1]
    boxes: list[Box] = []
    for outline, (left, right), (top, bottom) in zip(outlines, columns, cells, strict=True):
        width, height = outline.size(right - left, bottom - top)
        x, y = _in(chance, left, right, width, 0.6), _in(chance, top, bottom, height, 0.6)
        boxes.append((x, y, x + width, y + height))
    return boxes


def stacked(chance: random.Random, upper: Outline, lower: Outline) -> list[Box] | None:
    """The upper thing's foot on the lower thing's top, a little into it; None where it does not fit."""
    width, height = lower.size(chance.randint(130, 195), 125)
    wide, high = upper.size(*(chance.randint(LEAST + 4, 118),) * 2)
    left = _in(chance, EDGE, SIDE - EDGE, width, 0.4)
    x = round(left + width * chance.uniform(0.42, 0.58) - wide / 2)
    reach = 0.25 * wide  # of its width a thing stands on the middle half
    top = lower.top(max(0, (x + reach - left) / width), min(1, (x + wide - reach - left) / width))
    if top > 0.55 or max(width, height) < LEAST:
        return None
    sink = round(top * height + min(0.1 * height, 9))  # of the lower thing, above the upper one's foot
    free = SIDE - EDGE - height
    y = min(free, max(EDGE + high - sink, free - chance.randint(0, 30)))
    foot = y + sink
    if foot - high < 1 or not EDGE - 3 <= x <= SIDE - EDGE + 3 - wide:
        return None
    return [(x, foot - high, x + wide, foot), (left, y, left + width, y + height)]


def overlapping(chance: random.Random, back: Outline, front: Outline) -> list[Box] | None:
    """The first thing behind the second, which hides 8 to 34 % of it; None where none was found."""
    for _ in range(12):
        wide, high = back.size(*(chance.randint(115, 150),) * 2)
        width, height = front.size(*(chance.randint(95, 130),) * 2)
        across = chance.uniform(0.2, 0.7) * wide * chance.choice((-1, 1))
        down = chance.uniform(0.3, 0.75) * high
        x, y = -wide / 2, -high / 2
        left, top = across - width / 2, y + high / 2 + down - height / 2
        shift_x = SIDE / 2 - (min(x, left) + max(x + wide, left + width)) / 2
        shift_y = SIDE / 2 - (min(y, top) + max(y + high, top + height)) / 2
        first = _box(x + shift_x, y + shift_y, wide, high)
        second = _box(left + shift_x, top + shift_y, width, height)
        outside = min(*first[:2], *second[:2]) < 2 or max(*first[2:], *second[2:]) > SIDE - 2
        if not outside and second[3] >= first[3] + 8 and 0.08 <= covered(first, back, second, front) <= 0.34:
            return [first, second]
    return None


def _box(left: float, top: float, width: int, height: int) -> Box:
    x, y = round(left), round(top)
    return x, y, x + width, y + height
