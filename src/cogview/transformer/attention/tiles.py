"""Three-region attention on a CPU: tiles of queries over their visible keys, with scores that stay in cache.

A tile is up to ``ROWS`` queries of one block and a few heads. Its scores over the pivots before its window
(*far*) and over the window itself (*near*) are adjacent in a buffer of ``SCORES`` elements per thread, which
is written, exponentiated and read while it is in the core's cache; nothing of size length x keys is stored.
The backward pass recomputes the scores from each row's logsumexp (Dao et al., FlashAttention-2, section 3.1).

Two things save passes over the scores. Exponentials use base 2, which is four times as fast here. And since
log(r) with an integer r is added to a pivot's score, its exponential is multiplied by r: r becomes a factor
of the product with the pivots' values, at no cost.
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

ROWS = 128  # queries of a tile; more would compute more masked keys on the diagonal
SCORES = 3 << 16  # of a tile per thread: three quarters of a megabyte
BASE2 = 1 / math.log(2)
SAFE = 80.0  # exponents of two whose sums neither overflow nor underflow


@dataclass(frozen=True)
class Tile:
    """``rows`` queries from ``first`` on; they see the keys from ``near`` to their own and ``far`` pivots."""

    first: int
    rows: int
    near: int
    far: int

    @cached_property
    def width(self) -> int:
        """Number of keys of the window, including those after the first query."""
        return self.first + self.rows - self.near


class Layout:
    """The tiles of a pattern at one length, for sequences with the pivots (b, n) int64.

    window, times: as in the pattern. ratio: the integer number of keys that a pivot represents.
    """

    def __init__(self, window: int, times: int, pivots: Tensor, length: int, ratio: int) -> None:
        self.length, self.ratio, self.rows = length, ratio, min(window, ROWS, length)
        self.pivots = pivots.sort(-1).values
        starts = [max(0, (block - times + 1) * window) for block in range(-(-length // window))]
        before = torch.searchsorted(self.pivots, self.pivots.new_tensor([starts] * len(pivots)))
        self.tiles = [list(self._tiles(window, starts, counts)) for counts in before.tolist()]
        self.most = max(tile.far + tile.width for row in self.tiles for tile in row)

    def _tiles(self, window: int, starts: list[int], counts: list[int]) -> Iterator[Tile]:
        """The tiles of a sequence, given the first key of each block's window and its number of pivots."""
        for block, (near, far) in enumerate(zip(starts, counts, strict=True)):
            end = min(self.length, (block + 1) * window)
            for first in range(block * window, end, ROWS):
                yield Tile(first, min(ROWS, end - first), near, far)

    def gather(self, x: Tensor) -> Tensor:
        """The pivots' rows (b, heads, n, d) of x (b, heads, length, d)."""
        return torch.stack([row.index_select(1, p) for row, p in zip(x, self.pivots, strict=True)])

    def scatter(self, x: Tensor, pivots: Tensor) -> None:
        """Add the pivots' rows (b, heads, n, d) to x (b, heads, length, d)."""
        for row, p, added in zip(x, self.pivots, pivots, strict=True):
            row.index_add_(1, p, added)


@dataclass(frozen=True)
class Scores:
    """A tile's scores as views of a buffer: all of them, flat; those of pivots (heads, rows, far); those of
    the window (heads, rows, width), and its square on the diagonal. Both parts are contiguous, so that a
    product is parallelized over heads."""

    all: Tensor
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
    """The iteration order: groups of heads of one sequence, and each group's tiles with their buffers."""

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
        """For every group: its tiles, and its part (heads, length, d) of tensors (b, heads, length, d)."""
        for row, tiles in enumerate(self.tiles):
            for part in zip(*(torch.split(x[row], self.heads) for x in tensors), strict=True):
                yield tiles, list(part)

    def hide(self, scores: Scores) -> None:
        """Mask the keys after each query."""
        rows = scores.diagonal.shape[1]
        future = self.future if rows == len(self.future) else self.future[:rows, :rows]
        scores.diagonal.add_(future)


class Dropout:
    """Dropout factors, tile after tile; the same sequence in the forward and the backward pass."""

    def __init__(self, p: float, seed: int, device: torch.device) -> None:
        self.p, self.generator = p, torch.Generator(device).manual_seed(seed)

    def next(self, like: Tensor) -> Tensor:
        keep = torch.empty_like(like).bernoulli_(1 - self.p, generator=self.generator)
        return keep.div_(1 - self.p)


def _bounded(query: Tensor, key: Tensor) -> bool:
    """Whether all scores lie within +-SAFE, so that no maximum need be subtracted (|q k| <= |q| |k|)."""
    longest = (float(torch.linalg.vector_norm(x, dim=-1).max()) for x in (query, key))
    return math.prod(longest) * BASE2 / math.sqrt(query.shape[-1]) <= SAFE


class TiledAttention(torch.autograd.Function):
    """The autograd function; tensors (b, heads, length, d) of float32 or float64."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, p: float, seed: int
    ) -> Tensor:
        out, sums = torch.empty_like(query), query.new_empty(*query.shape[:3], 1)
        maxima = None if _bounded(query, key) else torch.empty_like(sums)
        dropout = Dropout(p, seed, query.device) if p else None
        _attend(layout, query, key, value, out, sums, maxima, dropout)
        sums.log2_()
        ctx.save_for_backward(query, key, value, out, sums if maxima is None else sums.add_(maxima))
        ctx.layout, ctx.p, ctx.seed = layout, p, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        shift = (grad * out).sum(-1, keepdim=True).neg_()
        dropout = Dropout(ctx.p, ctx.seed, query.device) if ctx.p else None
        with no_autocast(grad.device):
            grads = _backward(ctx.layout, query, key, value, grad, -total, shift, dropout)
        return *grads, None, None, None


class TiledKernel:
    """:class:`TiledAttention` as a view's kernel."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @uncompiled
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Three tensors (b, heads, length, d) -> (b, heads, length, d); computed in float32 or float64."""
        seed = int(torch.randint(2**62, ())) if dropout else 0
        dtype = torch.promote_types(query.dtype, torch.float32)
        inputs = (x.to(dtype) for x in (query, key, value))
        with no_autocast(query.device):
            out: Tensor = TiledAttention.apply(*inputs, self.layout, dropout, seed)  # type: ignore[no-untyped-call]
        return out.to(query.dtype)


def _attend(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    maxima: Tensor | None,
    dropout: Dropout | None,
) -> None:
    """Fill ``out``, ``sums`` with the sums of the weights, and ``maxima`` with the largest scores."""
    work, scale = Work(layout, query), BASE2 / math.sqrt(query.shape[-1])
    bounded, tensors = maxima is None, (key.mT, value, layout.gather(key).mT, layout.gather(value))
    by_query = query, out, sums, sums if maxima is None else maxima
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
            scores.all.exp2_()
            torch.sum(scores.near, -1, True, out=total)
            if far:
                total.add_(scores.far.sum(-1, True), alpha=layout.ratio)
            if dropout:
                scores.all.mul_(dropout.next(scores.all))
            values = torch.bmm(scores.near, v.narrow(1, near, width))
            if far:
                values.baddbmm_(scores.far, far_v.narrow(1, 0, far), alpha=layout.ratio)
            torch.div(values, total, out=attended)


def _largest(scores: Scores) -> Tensor:
    """The largest score of each query, (heads, rows, 1)."""
    near = scores.near.amax(-1, True)
    return torch.maximum(near, scores.far.amax(-1, True)) if scores.far.shape[-1] else near


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """``out`` = scale a b."""
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _backward(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    total: Tensor,
    shift: Tensor,
    dropout: Dropout | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. total: minus the logsumexp of each row; shift: minus grad x out."""
    work, ratio, scale = Work(layout, query, buffers=2), layout.ratio, 1 / math.sqrt(query.shape[-1])
    far_key, far_value = layout.gather(key), layout.gather(value)
    d_query = torch.empty_like(query)
    d_key, d_value, d_far_key, d_far_value = map(torch.zeros_like, (key, value, far_key, far_value))
    start = torch.zeros_like(shift) if dropout else shift
    tensors = query, key, value, far_key, far_value, grad, total, shift, start
    outputs = d_query, d_key, d_value, d_far_key, d_far_value
    for tiles, (q, k, v, far_k, far_v, g, t, h, z, dq, dk, dv, far_dk, far_dv) in work.each(
        *tensors, *outputs
    ):
        for tile, scores, d_scores in tiles:
            first, rows, near, far, width = tile.first, tile.rows, tile.near, tile.far, tile.width
            queries, grads, keys = (
                q.narrow(1, first, rows),
                g.narrow(1, first, rows),
                k.narrow(1, near, width),
            )
            sums, zero, to = t.narrow(1, first, rows), z.narrow(1, first, rows), dq.narrow(1, first, rows)
            torch.baddbmm(sums, queries, keys.mT, alpha=scale * BASE2, out=scores.near)
            torch.baddbmm(zero, grads, v.narrow(1, near, width).mT, out=d_scores.near)
            if far:
                far_keys = far_k.narrow(1, 0, far)
                torch.baddbmm(sums, queries, far_keys.mT, alpha=scale * BASE2, out=scores.far)
                torch.baddbmm(zero, grads, far_v.narrow(1, 0, far).mT, out=d_scores.far)
            work.hide(scores)
            scores.all.exp2_()
            if dropout:
                keep = dropout.next(scores.all)
                d_scores.all.mul_(keep)
                d_scores.near.add_(h.narrow(1, first, rows))
                d_scores.far.add_(h.narrow(1, first, rows))
            d_scores.all.mul_(scores.all)
            if dropout:
                scores.all.mul_(keep)
            d_rows = torch.bmm(d_scores.near, keys)
            dk.narrow(1, near, width).baddbmm_(d_scores.near.mT, queries, alpha=scale)
            dv.narrow(1, near, width).baddbmm_(scores.near.mT, grads)
            if far:
                d_rows.baddbmm_(d_scores.far, far_keys, alpha=ratio)
                far_dk.narrow(1, 0, far).baddbmm_(d_scores.far.mT, queries, alpha=ratio * scale)
                far_dv.narrow(1, 0, far).baddbmm_(scores.far.mT, grads, alpha=ratio)
            torch.mul(d_rows, scale, out=to)
    layout.scatter(d_key, d_far_key)
    layout.scatter(d_value, d_far_value)
    return d_query, d_key, d_value
