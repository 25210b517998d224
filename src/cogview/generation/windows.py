"""Windows of super-resolution: where they lie and in which order they are drawn (CogView, section 3.1).

The model draws a window of the large image (its ``grid``) from the text and that part of the small one
(its ``context_grid``) that lies under it. Windows slide by half a window; what an earlier one drew is given
to the later ones and stays. The order is the paper's *centre-continuous* one (Figure 5 a), with the numbers
of the released code, which draws 64 x 64 codes over 32 x 32 as nine windows of 32 x 32::

    window (row, column)   0,0  0,1  0,2   1,1  1,0  1,2   2,0  2,1  2,2
    rows of it drawn       18   30   30    30   30   30    32   32   32

So the top row of windows goes from left to right, its first window only a little past its middle, for what
lies below is drawn better from above and from the centre; the rows between begin in the centre and go
outwards; and but for the bottom row, a window's last rows are left to those that see what is under them.
Here the same rule holds for any size. A window waits only for those that drew something inside it.
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
STREAMS = 1 << 20  # random streams that each image has for its windows


@dataclass(frozen=True)
class Window:
    """One window: its upper left corner in the large image, and how many of its rows are drawn.

    number: its place in the order. turn: windows of one turn do not depend on each other, only on some of
    the turns before.
    """

    top: int
    left: int
    rows: int
    number: int
    turn: int


def scale_of(form: SequenceFormat) -> int:
    """How much larger a side gets; CogViewError where the format is not one of super-resolution."""
    small = form.context_grid
    if small is None:
        raise CogViewError(f"a model of the kind {form.kind} does not enlarge pictures")
    scale = form.grid[0] // small[0]
    if form.grid != (small[0] * scale, small[1] * scale):
        raise CogViewError(f"{small} codes to {form.grid} is not a whole number of times on both sides")
    return scale


def stages_of(form: SequenceFormat, times: int) -> int:
    """How often a model is applied to enlarge ``times``; CogViewError where its scale does not make it."""
    scale, stages = scale_of(form), 1
    while scale > 1 and scale**stages < times:
        stages += 1
    if scale**stages != times:
        raise CogViewError(f"times is {times}; this model enlarges {scale} or {scale**2} times")
    return stages


@lru_cache(maxsize=64)
def sliding_windows(target: Size, window: Size, scale: int = 2) -> tuple[Window, ...]:
    """The windows over an image of ``target`` (rows, columns) codes, in the order they are drawn.

    Args:
        target: a multiple of ``scale``, at least ``window``.
        window: rows and columns of a window.
        scale: corners are multiples of it, so that each window lies over whole codes of the small image.
    """
    owner = np.full(target, -1)
    found: list[Window] = []
    for top, left, rows in _order(target, window, scale):
        part = owner[top : top + rows, left : left + window[1]]
        before = {int(number) for number in np.unique(part) if number >= 0}
        if (part < 0).any():
            part[part < 0] = len(found)
            turn = 1 + max((found[number].turn for number in before), default=-1)
            found.append(Window(top, left, rows, len(found), turn))
    return tuple(found)


def _order(target: Size, window: Size, scale: int) -> Iterator[tuple[int, int, int]]:
    """(top, left, rows) of each window; for 64 x 64 codes the released code's nine."""
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
    """How far windows slide: half a window, in whole codes of the small image."""
    return max(side // 2 // scale, 1) * scale


def _starts(total: int, side: int, scale: int) -> list[int]:
    """Where windows begin along one side; the last one ends with the image."""
    return [*range(0, total - side, _step(side, scale)), total - side]


def _outwards(count: int) -> list[int]:
    """0 … count - 1 from the centre outwards, left before right."""
    centre = (count - 1) // 2
    return sorted(range(count), key=lambda number: (abs(number - centre), number))


def plan(form: SequenceFormat, codes: Ids, scale: int) -> tuple[Window, ...]:
    """The windows over the large image of small codes (rows, columns); CogViewError for too few of them."""
    rows, columns = codes.shape
    small = form.context_grid or (1, 1)
    if rows < small[0] or columns < small[1]:
        raise CogViewError(
            f"the picture has {rows} x {columns} codes; the model enlarges {small[0]} x {small[1]} and more"
        )
    return sliding_windows((rows * scale, columns * scale), form.grid, scale)


def turns(plans: dict[int, tuple[Window, ...]]) -> Iterator[list[tuple[int, Window]]]:
    """What can be drawn together, turn by turn: (image, window), all of as many rows, sorted by place."""
    count = 1 + max(window.turn for plan in plans.values() for window in plan)
    for turn in range(count):
        ready = [(n, window) for n, plan in plans.items() for window in plan if window.turn == turn]
        for rows in sorted({window.rows for _, window in ready}):
            alike = [(n, window) for n, window in ready if window.rows == rows]
            yield sorted(alike, key=lambda pair: (pair[1].top, pair[1].left, pair[0]))


def view(canvas: Ids, window: Window, columns: int) -> Ids:
    """The part of the large image that a window draws or reads."""
    return canvas[window.top : window.top + window.rows, window.left : window.left + columns]


def stream_of(index: int, stage: int, window: int) -> int:
    """The random stream of a window: none that another window, stage or image has."""
    return (index * STREAMS + (stage + 1 << 16) + window) % (MAX_SEED + 1)


def under(form: SequenceFormat, codes: Ids, window: Window) -> Ids:
    """The part of the small image (rows, columns) that lies under a window."""
    scale, (rows, columns) = scale_of(form), form.context_grid or (0, 0)
    top, left = window.top // scale, window.left // scale
    return codes[top : top + rows, left : left + columns]
