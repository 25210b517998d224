"""Local windows on image grids (CogView2, section 4.3): the keys around a query's position that it sees.

A query at row y, column x of a grid H x W sees a grid of keys h x w (its own, or that of a smaller image)
through a window around (y h // H, x w // W), clipped to the grid. ``sees`` is the definition, a predicate on
integer indices, from which dense masks, block masks and tiles are built.

Tiles: the queries of a small rectangle see the keys of that rectangle and of a halo around it, that is a few
hundred keys instead of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int]
SIDES = range(6, 13)  # of a tile, except in smaller images; smaller: more halo, larger: more masked corners
OVERHEAD = 4  # cost of a row or column of a tile besides its keys, in keys


@dataclass(frozen=True)
class Window:
    """A rectangle of keys around a position; causal: only the keys up to it in raster order.

    An even side extends one key further up or left. A causal window has odd sides.
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
        """Visible rows below the centre."""
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
    def size(self) -> int:
        """Number of keys of a window that is not clipped."""
        return self.rows * self.columns // 2 + 1 if self.causal else self.rows * self.columns

    def contains(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Whether a key at row offset dy and column offset dx from the centre lies in the window."""
        inside = (dy >= -self.above) & (dy <= self.below) & (dx >= -self.left) & (dx <= self.right)
        return inside & ((dy < 0) | (dx <= 0)) if self.causal else inside


@dataclass(frozen=True)
class Keys:
    """A grid of keys that begins at index ``start`` of the sequence, and the window on it."""

    start: int
    grid: Grid
    window: Window

    @property
    def count(self) -> int:
        """Number of keys of the grid."""
        return self.grid[0] * self.grid[1]

    def centre(self, y: Tensor, x: Tensor, queries: Grid) -> tuple[Tensor, Tensor]:
        """Row and column of the key that corresponds to a query's position."""
        return y * self.grid[0] // queries[0], x * self.grid[1] // queries[1]

    def sees(self, query: Tensor, key: Tensor, queries: Grid) -> Tensor:
        """Whether a query (index on its grid) sees a key (index in the sequence)."""
        index = key - self.start
        row, column = self.centre(query // queries[1], query % queries[1], queries)
        inside = (index >= 0) & (index < self.count)
        return inside & self.window.contains(index // self.grid[1] - row, index % self.grid[1] - column)


@dataclass(frozen=True)
class Layout:
    """The local attention pattern of a grid of queries over a sequence of keys.

    queries: rows and columns. keys: the grids seen through windows. shared: the number of keys at the start
    of the sequence that every query sees.
    """

    queries: Grid
    keys: tuple[Keys, ...]
    shared: int = 0

    def __post_init__(self) -> None:
        for keys in self.keys:
            if any(large % small for large, small in zip(self.queries, keys.grid, strict=True)):
                raise ValueError(f"a grid of {self.queries} is not a whole number of times {keys.grid}")

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query sees a key; int64 of broadcastable shapes -> bool."""
        seen = key < self.shared
        for keys in self.keys:
            seen = seen | keys.sees(query, key, self.queries)
        return seen


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a layout.

    queries: int64 (n, q), indices on the grid; where a tile extends beyond the edge, ``real`` (n, q, 1) is
    False and the index is that of the nearest query. keys: int64 (n, k), indices in the sequence. bias:
    float32 (n, q, k), 0 where a query sees a key, else -inf.
    """

    queries: Tensor
    real: Tensor
    keys: Tensor
    bias: Tensor

    @property
    def inside(self) -> bool:
        """Whether no tile extends beyond the edge."""
        return bool(self.real.all())


@lru_cache(maxsize=16)
def tiles(layout: Layout, device: torch.device) -> Tiles:
    """Partition a layout's queries into tiles of about equal cost."""
    sides = [_side(total, *halo) for total, halo in zip(layout.queries, _halos(layout), strict=True)]
    tops, lefts = (torch.arange(0, n, side) for n, side in zip(layout.queries, sides, strict=True))
    corners = torch.cartesian_prod(tops, lefts).view(-1, 2)
    query, real = _rectangles(corners, sides, layout.queries)
    shared = torch.arange(layout.shared)
    indices, inside = [shared.expand(len(corners), -1)], [torch.ones(len(corners), layout.shared).bool()]
    for keys in layout.keys:
        index, exist = _rectangles(*_around(corners, sides, keys, layout.queries), keys.grid)
        indices.append(index + keys.start)
        inside.append(exist)
    key, exists = torch.cat(indices, 1), torch.cat(inside, 1)
    seen = layout.sees(query[:, :, None], key[:, None]) & exists[:, None]
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    return Tiles(*(x.to(device) for x in (query, real[..., None], key, bias)))


def _halos(layout: Layout) -> tuple[tuple[int, float], tuple[int, float]]:
    """For rows and columns: the halo of a tile in keys, and the number of keys per query without it."""
    rows = sum(keys.window.above + keys.window.below for keys in layout.keys)
    columns = sum(keys.window.left + keys.window.right for keys in layout.keys)
    share = [sum(k.grid[i] / layout.queries[i] for k in layout.keys) for i in (0, 1)]
    return (rows, share[0]), (columns, share[1])


def _side(total: int, halo: int, share: float) -> int:
    """The side of a tile with the least computation."""
    sides = [side for side in SIDES if side <= total] or [total]
    return min(sides, key=lambda side: -(-total // side) * side * (share * side + halo + OVERHEAD))


def _around(corners: Tensor, sides: Sequence[int], keys: Keys, queries: Grid) -> tuple[Tensor, list[int]]:
    """The corners and the common side lengths of the rectangles of keys that tiles see."""
    window, ends = keys.window, corners + torch.tensor(sides) - 1
    first = torch.stack(keys.centre(corners[:, 0], corners[:, 1], queries), 1)
    last = torch.stack(keys.centre(ends[:, 0], ends[:, 1], queries), 1)
    before, after = (window.above, window.left), (window.below, window.right)
    reach = (last - first).amax(0) + 1 + torch.tensor(before) + torch.tensor(after)
    return first - torch.tensor(before), reach.tolist()


def _rectangles(corners: Tensor, sides: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
    """Grid indices (n, rows * columns) of rectangles, clamped to the grid, and whether each is inside it."""
    offsets = torch.cartesian_prod(torch.arange(sides[0]), torch.arange(sides[1])).view(-1, 2)
    positions = corners[:, None] + offsets  # (n, rows * columns, 2)
    clamped = positions.clamp(torch.zeros(2, dtype=torch.int64), torch.tensor(grid) - 1)
    return clamped[..., 0] * grid[1] + clamped[..., 1], (positions == clamped).all(-1)
