"""Windows of super-resolution: their positions and the order in which they are generated (CogView, section
3.1).

The model generates a window of the large image (its ``grid``) from the text and the corresponding part of the
small one (its ``context_grid``). Windows slide by half a window; codes of earlier windows are known in later
ones and do not change. The order is the paper's *centre-continuous* one (Figure 5 a), with the numbers of the
released code, which generates 64 x 64 codes from 32 x 32 in nine windows of 32 x 32::

    window (row, column)   0,0  0,1  0,2   1,1  1,0  1,2   2,0  2,1  2,2
    rows generated         18   30   30    30   30   30    32   32   32

The top row of windows goes from left to right; its first window generates only slightly more than its upper
half, since the rest is better generated from above and from the centre. The middle rows start in the centre
and go outwards. Except in the bottom row, a window's last rows are left to the windows below, which have
context beneath them. The same rule applies to any size. A window depends only on those that generate codes
inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cogview.errors import CogViewError
from cogview.sequences.cogview import SequenceFormat
from cogview.types import MAX_SEED, Ids

Size = tuple[int, int]
STREAMS = 1 << 20  # random streams reserved for the windows of each image


@dataclass(frozen=True)
class Window:
    """One window: its upper left corner in the large image, and how many of its rows are generated.

    number: its position in the order. turn: windows of one turn depend only on earlier turns.
    """

    top: int
    left: int
    rows: int
    number: int
    turn: int


def scale_of(format: SequenceFormat) -> int:
    """The scale factor of the sides; raises CogViewError if the format is not for super-resolution."""
    small = format.context_grid
    if small is None:
        raise CogViewError(f"a model of the kind {format.kind} does not upscale images")
    scale = format.grid[0] // small[0]
    if format.grid != (small[0] * scale, small[1] * scale):
        raise CogViewError(f"{small} codes to {format.grid} is not the same integer factor on both sides")
    return scale


def stages_of(format: SequenceFormat, times: int) -> int:
    """How often a model is applied to upscale ``times``; raises CogViewError if its scale cannot reach it."""
    scale, stages = scale_of(format), 1
    while scale > 1 and scale**stages < times:
        stages += 1
    if scale**stages != times:
        raise CogViewError(f"times is {times}; this model upscales {scale} or {scale**2} times")
    return stages


@lru_cache(maxsize=64)
def sliding_windows(target: Size, window: Size, scale: int = 2) -> tuple[Window, ...]:
    """The windows over an image of ``target`` (rows, columns) codes, in the order they are generated.

    Args:
        target: a multiple of ``scale``, at least ``window``.
        window: rows and columns of a window.
        scale: corners are multiples of it, so that each window corresponds to full codes of the small image.
    """
    owner = np.full(target, -1)
    windows: list[Window] = []
    for top, left, rows in _order(target, window, scale):
        part = owner[top : top + rows, left : left + window[1]]
        before = {int(number) for number in np.unique(part) if number >= 0}
        if (part < 0).any():
            part[part < 0] = len(windows)
            turn = 1 + max((windows[number].turn for number in before), default=-1)
            windows.append(Window(top, left, rows, len(windows), turn))
    return tuple(windows)


def _order(target: Size, window: Size, scale: int) -> Iterator[tuple[int, int, int]]:
    """(top, left, rows) of each window; for 64 x 64 codes the nine windows of the released code."""
    height = window[0]
    step = _step(height, scale)
    margin = min(max(1, height // 16), height - step)  # left to the windows below
    tops, lefts = _starts(target[0], height, scale), _starts(target[1], window[1], scale)
    for i, top in enumerate(tops):
        last = i == len(tops) - 1
        for j in range(len(lefts)) if i == 0 or last else _outwards(len(lefts)):
            usual = step + margin if i == j == 0 else height - margin
            yield top, lefts[j], height if last else usual


def _step(side: int, scale: int) -> int:
    """The stride of windows: half a window, a multiple of ``scale``."""
    return max(side // 2 // scale, 1) * scale


def _starts(total: int, side: int, scale: int) -> list[int]:
    """The offsets of windows along one side; the last one ends with the image."""
    return [*range(0, total - side, _step(side, scale)), total - side]


def _outwards(count: int) -> list[int]:
    """0 … count - 1 from the centre outwards, left before right."""
    centre = (count - 1) // 2
    return sorted(range(count), key=lambda number: (abs(number - centre), number))


def plan(format: SequenceFormat, codes: Ids, scale: int) -> tuple[Window, ...]:
    """The windows over the large image for small codes (rows, columns); raises CogViewError for too few."""
    rows, columns = codes.shape
    small = format.context_grid or (1, 1)
    if rows < small[0] or columns < small[1]:
        raise CogViewError(
            f"the image has {rows} x {columns} codes; the model needs at least {small[0]} x {small[1]}"
        )
    return sliding_windows((rows * scale, columns * scale), format.grid, scale)


def turns(plans: dict[int, tuple[Window, ...]]) -> Iterator[list[tuple[int, Window]]]:
    """Windows that can be generated together, turn by turn: (image, window), all with the same number of
    rows, sorted by position."""
    count = 1 + max(window.turn for plan in plans.values() for window in plan)
    for turn in range(count):
        ready = [(n, window) for n, plan in plans.items() for window in plan if window.turn == turn]
        for rows in sorted({window.rows for _, window in ready}):
            same_size = [(n, window) for n, window in ready if window.rows == rows]
            yield sorted(same_size, key=lambda pair: (pair[1].top, pair[1].left, pair[0]))


def view(canvas: Ids, window: Window, columns: int) -> Ids:
    """The part of the large image that a window reads or generates."""
    return canvas[window.top : window.top + window.rows, window.left : window.left + columns]


def stream_of(index: int, stage: int, window: int) -> int:
    """The random stream of a window, distinct from those of other windows, stages and images."""
    return (index * STREAMS + (stage + 1 << 16) + window) % (MAX_SEED + 1)


def under(format: SequenceFormat, codes: Ids, window: Window) -> Ids:
    """The part of the small image (rows, columns) that corresponds to a window."""
    scale, (rows, columns) = scale_of(format), format.context_grid or (0, 0)
    top, left = window.top // scale, window.left // scale
    return codes[top : top + rows, left : left + columns]
