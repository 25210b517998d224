"""Three-region attention on a CPU: tiles of queries over the keys they see, scores never leaving the cache.

A tile is up to ``ROWS`` queries of one block and a few heads. Its scores over the pivots before its window
(*far*) and over the window itself (*near*) stand side by side in a buffer of ``SCORES`` numbers a thread,
which is written, exponentiated and read while it is in the core's own cache; nothing of the size
length x keys is kept. The backward pass computes the scores again from the logarithm of each row's sum
(Dao et al., FlashAttention-2, section 3.1).

Two things save passes over the scores. Exponentials are to the base 2, four times as fast here. And since a
pivot's score gets + log(r) with a whole number r, its exponential is just r times itself: r is the factor
of the product with the pivots' values, and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogview.tensors import no_autocast
from cogview.transformer.uncompiled import uncompiled

ROWS = 128  # queries of a tile; more compute more hidden keys on the diagonal
SCORES = 3 << 16  # of a tile for each thread: three quarters of a megabyte
BASE2 = 1 / math.log(2)
SAFE = 80.0  # powers of two that neither overflow nor vanish, whatever is added up


@dataclass(frozen=True)
class Tile:
    """Queries from ``first`` on: they see the keys from ``near`` to their own, and ``far`` pivots."""

    first: int
    rows: int
    near: int
    far: int

    @cached_property
    def width(self) -> int:
        """Keys of the window, those after the first query included."""
        return self.first + self.rows - self.near


class Layout:
    """The tiles of a pattern at one length, for sequences with the pivots (b, n) int64.

    window, times: as in the pattern. ratio: the whole number of keys that a pivot counts for.
    """

    def __init__(self, window: int, times: int, pivots: Tensor, length: int, ratio: int) -> None:
        self.length, self.ratio, self.rows = length, ratio, min(window, ROWS, length)
        self.pivots = pivots.sort(-1).values
        starts = [max(0, (block - times + 1) * window) for block in range(-(-length // window))]
        before = torch.searchsorted(self.pivots, self.pivots.new_tensor([starts] * len(pivots)))
        self.tiles = [list(self._tiles(window, starts, counts)) for counts in before.tolist()]
        self.most = max(tile.far + tile.width for row in self.tiles for tile in row)

    def _tiles(self, window: int, starts: list[int], counts: list[int]) -> Iterator[Tile]:
        """The tiles of a sequence, from the first key of each block's window and its number of pivots."""
        for block, (near, far) in enumerate(zip(starts, counts, strict=True)):
            end = min(self.length, (block + 1) * window)
            for first in range(block * window, end, ROWS):
                yield Tile(first, min(ROWS, end - first), near, far)

    def gather(self, x: Tensor) -> Tensor:
        """The pivots' rows (b, heads, n, d) of x (b, heads, length, d)."""
        return torch.stack([row.index_select(1, p) for row, p in zip(x, self.pivots, strict=True)])

    def scatter(self, x: Tensor, pivots: Tensor) -> None:
        """Add to x (b, heads, length, d) at the pivots (b, heads, n, d)."""
        for row, p, added in zip(x, self.pivots, pivots, strict=True):
            row.index_add_(1, p, added)


@dataclass(frozen=True)
class Scores:
    """A tile's numbers in a buffer: all in one row; those of pivots (heads, rows, far); those of the window
    (heads, rows, width), and of these the square under the diagonal. Both parts are contiguous, so that a
    product is shared out by heads."""

    whole: Tensor
    far: Tensor
    near: Tensor
    diagonal: Tensor

    @classmethod
    def of(cls, buffer: Tensor, heads: int, tile: Tile) -> Scores:
        start, end = (heads * tile.rows * keys for keys in (tile.far, tile.far + tile.width))
        far = buffer[:start].view(heads, tile.rows, tile.far)
        near = buffer[start:end].view(heads, tile.rows, tile.width)
        return cls(buffer[:end], far, near, near[..., -tile.rows :])


class Work:
    """The order of the work: groups of heads of one sequence, and each group's tiles with their buffers."""

    def __init__(self, layout: Layout, like: Tensor, buffers: int = 1) -> None:
        heads = like.shape[1]
        budget = SCORES * (torch.get_num_threads() if like.device.type == "cpu" else 64)
        fit = max(1, budget // (layout.rows * layout.most))
        self.heads = max(n for n in range(1, heads + 1) if heads % n == 0 and n <= fit)
        space = [like.new_empty(self.heads * layout.rows * layout.most) for _ in range(buffers)]
        self.tiles = [
            [(tile, *(Scores.of(buffer, self.heads, tile) for buffer in space)) for tile in row]
            for row in layout.tiles
        ]
        future = torch.full((layout.rows, layout.rows), -torch.inf, dtype=like.dtype, device=like.device)
        self.future = future.triu_(1)

    def each(self, *tensors: Tensor) -> Iterator[tuple[Any, list[Tensor]]]:
        """Of every group its tiles, and its part (heads, length, d) of tensors (b, heads, length, d)."""
        for row, tiles in enumerate(self.tiles):
            for part in zip(*(torch.split(x[row], self.heads) for x in tensors), strict=True):
                yield tiles, list(part)

    def hide(self, scores: Scores) -> None:
        """Hide what stands after each query."""
        rows = scores.diagonal.shape[1]
        future = self.future if rows == len(self.future) else self.future[:rows, :rows]
        scores.diagonal.add_(future)


class Dropout:
    """What the probabilities of one tile after another are multiplied by, the same forward and backward."""

    def __init__(self, chance: float, seed: int, device: torch.device) -> None:
        self.chance, self.generator = chance, torch.Generator(device).manual_seed(seed)

    def next(self, like: Tensor) -> Tensor:
        keep = torch.empty_like(like).bernoulli_(1 - self.chance, generator=self.generator)
        return keep.div_(1 - self.chance)


def _bounded(query: Tensor, key: Tensor) -> bool:
    """Whether no score can leave +-SAFE, so that no maximum need be taken off (|q k| <= |q| |k|)."""
    longest = (float(torch.linalg.vector_norm(x, dim=-1).max()) for x in (query, key))
    return math.prod(longest) * BASE2 / math.sqrt(query.shape[-1]) <= SAFE


class TiledAttention(torch.autograd.Function):
    """The function and its gradient; tensors (b, heads, length, d), floats of 32 or 64 bits."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, chance: float, seed: int
    ) -> Tensor:
        out, sums = torch.empty_like(query), query.new_empty(*query.shape[:3], 1)
        most = None if _bounded(query, key) else torch.empty_like(sums)
        dropout = Dropout(chance, seed, query.device) if chance else None
        _attend(layout, query, key, value, out, sums, most, dropout)
        sums.log2_()
        ctx.save_for_backward(query, key, value, out, sums if most is None else sums.add_(most))
        ctx.layout, ctx.chance, ctx.seed = layout, chance, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        shift = (grad * out).sum(-1, keepdim=True).neg_()
        dropout = Dropout(ctx.chance, ctx.seed, query.device) if ctx.chance else None
        with no_autocast(grad.device):
            slopes = _slopes(ctx.layout, query, key, value, grad, -total, shift, dropout)
        return *slopes, None, None, None


class TiledKernel:
    """:class:`TiledAttention` as a view's kernel."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @uncompiled
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(b, heads, length, d), three times -> (b, heads, length, d); computed in float32 or float64."""
        seed = int(torch.randint(2**62, ())) if dropout else 0
        exact = torch.promote_types(query.dtype, torch.float32)
        given = (x.to(exact) for x in (query, key, value))
        with no_autocast(query.device):
            out: Tensor = TiledAttention.apply(*given, self.layout, dropout, seed)  # type: ignore[no-untyped-call]
        return out.to(query.dtype)


def _attend(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    most: Tensor | None,
    dropout: Dropout | None,
) -> None:
    """Fill ``out``; ``sums`` with the sums of the weights, ``most`` with the largest scores."""
    work, scale = Work(layout, query), BASE2 / math.sqrt(query.shape[-1])
    bounded, tensors = most is None, (key.mT, value, layout.gather(key).mT, layout.gather(value))
    by_query = query, out, sums, sums if most is None else most
    for tiles, (k, v, far_k, far_v, *parts) in work.each(*tensors, *by_query):
        sizes = [tile.rows for tile, _ in tiles]
        rows = zip(*(torch.split(part, sizes, 1) for part in parts), strict=True)
        for (tile, scores), (queries, attended, total, largest) in zip(tiles, rows, strict=True):
            near, far, width = tile.near, tile.far, tile.width
            _product(queries, k.narrow(2, near, width), scale, scores.near)
            if far:
                _product(queries, far_k.narrow(2, 0, far), scale, scores.far)
            work.hide(scores)
            if not bounded:
                largest.copy_(_largest(scores))
                scores.near.sub_(largest)
                scores.far.sub_(largest)
            scores.whole.exp2_()
            torch.sum(scores.near, -1, True, out=total)
            if far:
                total.add_(scores.far.sum(-1, True), alpha=layout.ratio)
            if dropout:
                scores.whole.mul_(dropout.next(scores.whole))
            values = torch.bmm(scores.near, v.narrow(1, near, width))
            if far:
                values.baddbmm_(scores.far, far_v.narrow(1, 0, far), alpha=layout.ratio)
            torch.div(values, total, out=attended)


def _largest(scores: Scores) -> Tensor:
    """Of each query (heads, rows, 1)."""
    near = scores.near.amax(-1, True)
    return torch.maximum(near, scores.far.amax(-1, True)) if scores.far.shape[-1] else near


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """``out`` = scale a b."""
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _slopes(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    total: Tensor,
    shift: Tensor,
    dropout: Dropout | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by query, key, value. total: minus the logarithm of a row's sum; shift: minus grad x out."""
    work, ratio, scale = Work(layout, query, buffers=2), layout.ratio, 1 / math.sqrt(query.shape[-1])
    far_key, far_value = layout.gather(key), layout.gather(value)
    d_query = torch.empty_like(query)
    d_key, d_value, d_far_key, d_far_value = map(torch.zeros_like, (key, value, far_key, far_value))
    start = torch.zeros_like(shift) if dropout else shift
    tensors = query, key, value, far_key, far_value, grad, total, shift, start
    slopes = d_query, d_key, d_value, d_far_key, d_far_value
    for tiles, (q, k, v, far_k, far_v, g, t, h, z, dq, dk, dv, far_dk, far_dv) in work.each(
        *tensors, *slopes
    ):
        for tile, scores, slope in tiles:
            first, rows, near, far, width = tile.first, tile.rows, tile.near, tile.far, tile.width
            queries, grads, keys = (
                q.narrow(1, first, rows),
                g.narrow(1, first, rows),
                k.narrow(1, near, width),
            )
            sums, zero, to = t.narrow(1, first, rows), z.narrow(1, first, rows), dq.narrow(1, first, rows)
            torch.baddbmm(sums, queries, keys.mT, alpha=scale * BASE2, out=scores.near)
            torch.baddbmm(zero, grads, v.narrow(1, near, width).mT, out=slope.near)
            if far:
                far_keys = far_k.narrow(1, 0, far)
                torch.baddbmm(sums, queries, far_keys.mT, alpha=scale * BASE2, out=scores.far)
                torch.baddbmm(zero, grads, far_v.narrow(1, 0, far).mT, out=slope.far)
            work.hide(scores)
            scores.whole.exp2_()
            if dropout:
                keep = dropout.next(scores.whole)
                slope.whole.mul_(keep)
                slope.near.add_(h.narrow(1, first, rows))
                slope.far.add_(h.narrow(1, first, rows))
            slope.whole.mul_(scores.whole)
            if dropout:
                scores.whole.mul_(keep)
            sloped = torch.bmm(slope.near, keys)
            dk.narrow(1, near, width).baddbmm_(slope.near.mT, queries, alpha=scale)
            dv.narrow(1, near, width).baddbmm_(scores.near.mT, grads)
            if far:
                sloped.baddbmm_(slope.far, far_keys, alpha=ratio)
                far_dk.narrow(1, 0, far).baddbmm_(slope.far.mT, queries, alpha=ratio * scale)
                far_dv.narrow(1, 0, far).baddbmm_(scores.far.mT, grads, alpha=ratio)
            torch.mul(sloped, scale, out=to)
    layout.scatter(d_key, d_far_key)
    layout.scatter(d_value, d_far_value)
    return d_query, d_key, d_value
