"""The two operators of CogView2's released kernels, by unfolding: similarity and weighting in windows.

They are references: each window is copied out, which costs more time and memory than dense attention.
:mod:`~cogview.transformer.attention.halo` computes the same without.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.transformer.attention.pattern import HIDDEN
from cogview.transformer.attention.window import Window


def similarity(query: Tensor, key: Tensor, window: Window) -> Tensor:
    """Products of every query with the keys in its window, not scaled.

    Args:
        query: (b, c, H, W). key: (n, c, h, w); b is a multiple of n, H of h, W of w, and a key picture serves
            so many queries after one another.

    Returns:
        (b, H, W, places), the window in raster order; -10000 where it leaves the picture.
    """
    windows = _spread(_windows(key, window), query)  # (b, c, places, H, W)
    products = torch.einsum("bchw,bcphw->bhwp", query, windows)
    inside = _spread(_windows(torch.ones_like(key[:, :1]), window), query)[:, 0].permute(0, 2, 3, 1)
    return products.masked_fill(inside == 0, HIDDEN)


def weighting(value: Tensor, weights: Tensor, window: Window) -> Tensor:
    """Weighted sums (b, c, H, W) of the values in each window; what lies outside counts nothing.

    value: (n, c, h, w); weights: (b, H, W, places), as from :func:`similarity`.
    """
    windows = _spread(_windows(value, window), weights[..., 0])
    return torch.einsum("bhwp,bcphw->bchw", weights, windows)


def _windows(x: Tensor, window: Window) -> Tensor:
    """(n, c, h, w) -> (n, c, places, h, w), zeros outside."""
    rows, columns = x.shape[-2:]
    bottom = window.rows - 1 - window.above
    padded = F.pad(x, (window.left, window.right, window.above, bottom))
    unfolded = F.unfold(padded, (window.rows, window.columns))
    return unfolded.view(*x.shape[:2], -1, rows, columns)[:, :, : window.size]


def _spread(windows: Tensor, like: Tensor) -> Tensor:
    """Each window for all queries above it: (n, c, places, h, w) -> (b, c, places, H, W)."""
    windows = windows.repeat_interleave(len(like) // len(windows), 0)
    down, across = (like.shape[i] // windows.shape[i] for i in (-2, -1))
    return windows.repeat_interleave(down, -2).repeat_interleave(across, -1)
