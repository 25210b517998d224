"""Windows on grids (CogView2, section 4.3): which keys a query of an image sees around its own place.

A query at row y, column x of a grid H x W looks at a grid of keys h x w (its own, or a smaller image's)
through a window around (y h // H, x w // W). What lies outside the grid is not seen. ``sees`` is the
definition, whole numbers in and truth values out, from which dense masks, block masks and tiles are made.

Tiles: the queries of a small rectangle see the keys of that rectangle and of a halo around it, so a few
hundred keys instead of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int]
SIDES = range(6, 13)  # of a tile, but for smaller images; less computes more halo, more hidden corners
WORTH = 4  # what a tile's row or column costs beside its keys, in keys


@dataclass(frozen=True)
class Window:
    """A rectangle of keys around a place; causal: only those before it in raster order, and itself.

    An even side reaches one further up or left. A causal window has odd sides.
    """

    rows: int
    columns: int
    causal: bool = False

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or (self.causal and not self.rows % 2 == self.columns % 2 == 1):
            raise ValueError(f"no window of {self.rows} x {self.columns}" + ", causal" * self.causal)

    @property
    def above(self) -> int:
        """Rows above the centre."""
        return self.rows // 2

    @property
    def below(self) -> int:
        """Rows below the centre that may be seen."""
        return 0 if self.causal else self.rows - 1 - self.above

    @property
    def left(self) -> int:
        """Columns left of the centre."""
        return self.columns // 2

    @property
    def right(self) -> int:
        """Columns right of the centre."""
        return self.columns - 1 - self.left

    @property
    def places(self) -> int:
        """Keys of a window in the middle of a large grid."""
        return self.rows * self.columns // 2 + 1 if self.causal else self.rows * self.columns

    def holds(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Whether a key this many rows and columns after the centre lies in the window."""
        inside = (dy >= -self.above) & (dy <= self.below) & (dx >= -self.left) & (dx <= self.right)
        return inside & ((dy < 0) | (dx <= 0)) if self.causal else inside


@dataclass(frozen=True)
class Keys:
    """A grid of keys from ``start`` on in their sequence, and the window through which it is seen."""

    start: int
    grid: Grid
    window: Window

    @property
    def count(self) -> int:
        """Keys of the whole grid."""
        return self.grid[0] * self.grid[1]

    def centre(self, y: Tensor, x: Tensor, queries: Grid) -> tuple[Tensor, Tensor]:
        """The place under a query's, row and column."""
        return y * self.grid[0] // queries[0], x * self.grid[1] // queries[1]

    def sees(self, query: Tensor, key: Tensor, queries: Grid) -> Tensor:
        """Whether a query (its number on its grid) sees a key (its number in the sequence)."""
        place = key - self.start
        row, column = self.centre(query // queries[1], query % queries[1], queries)
        inside = (place >= 0) & (place < self.count)
        return inside & self.window.holds(place // self.grid[1] - row, place % self.grid[1] - column)


@dataclass(frozen=True)
class Layout:
    """Who sees whom among the queries of a grid and a sequence of keys.

    queries: rows and columns. keys: the grids that are seen through windows. shared: the number of keys at
    the start of the sequence are seen by every query.
    """

    queries: Grid
    keys: tuple[Keys, ...]
    shared: int = 0

    def __post_init__(self) -> None:
        for keys in self.keys:
            if any(large % small for large, small in zip(self.queries, keys.grid, strict=True)):
                raise ValueError(f"a grid of {self.queries} is no whole number of times {keys.grid}")

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query sees a key; int64, any two shapes that broadcast -> bool."""
        seen = key < self.shared
        for keys in self.keys:
            seen = seen | keys.sees(query, key, self.queries)
        return seen


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a layout.

    queries: int64 (n, q), numbers on the grid; where a tile reaches over the edge, ``real`` (n, q, 1) is
    False and the number that of the nearest query. keys: int64 (n, k), numbers in the sequence. bias:
    float32 (n, q, k), 0 where a query sees a key, else -inf.
    """

    queries: Tensor
    real: Tensor
    keys: Tensor
    bias: Tensor

    @property
    def whole(self) -> bool:
        """Whether no tile reaches over the edge."""
        return bool(self.real.all())


@lru_cache(maxsize=16)
def tiles(layout: Layout, device: torch.device) -> Tiles:
    """Cut a layout's queries into tiles of about equal cost."""
    sides = [_side(total, *halo) for total, halo in zip(layout.queries, _halos(layout), strict=True)]
    tops, lefts = (torch.arange(0, n, side) for n, side in zip(layout.queries, sides, strict=True))
    corners = torch.cartesian_prod(tops, lefts).view(-1, 2)
    query, real = _rectangles(corners, sides, layout.queries)
    shared = torch.arange(layout.shared)
    numbers, inside = [shared.expand(len(corners), -1)], [torch.ones(len(corners), layout.shared).bool()]
    for keys in layout.keys:
        places, exist = _rectangles(*_around(corners, sides, keys, layout.queries), keys.grid)
        numbers.append(places + keys.start)
        inside.append(exist)
    key, exists = torch.cat(numbers, 1), torch.cat(inside, 1)
    seen = layout.sees(query[:, :, None], key[:, None]) & exists[:, None]
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    return Tiles(*(x.to(device) for x in (query, real[..., None], key, bias)))


def _halos(layout: Layout) -> tuple[tuple[int, float], tuple[int, float]]:
    """For rows and columns: keys of a tile beyond those under it, and how many lie under each query."""
    rows = sum(keys.window.above + keys.window.below for keys in layout.keys)
    columns = sum(keys.window.left + keys.window.right for keys in layout.keys)
    share = [sum(k.grid[i] / layout.queries[i] for k in layout.keys) for i in (0, 1)]
    return (rows, share[0]), (columns, share[1])


def _side(total: int, halo: int, share: float) -> int:
    """The side of a tile for which least is computed."""
    sides = [side for side in SIDES if side <= total] or [total]
    return min(sides, key=lambda side: -(-total // side) * side * (share * side + halo + WORTH))


def _around(corners: Tensor, sides: Sequence[int], keys: Keys, queries: Grid) -> tuple[Tensor, list[int]]:
    """The corners and the common sides of the rectangles of keys that tiles see."""
    window, ends = keys.window, corners + torch.tensor(sides) - 1
    first = torch.stack(keys.centre(corners[:, 0], corners[:, 1], queries), 1)
    last = torch.stack(keys.centre(ends[:, 0], ends[:, 1], queries), 1)
    before, after = (window.above, window.left), (window.below, window.right)
    reach = (last - first).amax(0) + 1 + torch.tensor(before) + torch.tensor(after)
    return first - torch.tensor(before), reach.tolist()


def _rectangles(corners: Tensor, sides: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
    """Numbers (n, rows * columns) of rectangles on a grid, the nearest for what lies outside; if inside."""
    inside = torch.cartesian_prod(torch.arange(sides[0]), torch.arange(sides[1])).view(-1, 2)
    place = corners[:, None] + inside  # (n, rows * columns, 2)
    near = place.clamp(torch.zeros(2, dtype=torch.int64), torch.tensor(grid) - 1)
    return near[..., 0] * grid[1] + near[..., 1], (place == near).all(-1)
