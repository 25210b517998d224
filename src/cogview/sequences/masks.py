"""Which tokens of an image are masked (CogView2, section 3.2, "Masking Strategy").

The paper samples patches of 4 x 4 tokens until 75 % of the tokens are in mask regions. The released script
samples a fixed number of distinct patches, 20 for 20 x 20 tokens; as they overlap, about half of the tokens
are masked, and they never reach the last row or column. Rectangles, for editing, are our addition. The caller
passes the random generator: NumPy's, or Python's for the released rule, which then reproduces the script.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import ArrayLike, NDArray

PATCH = 4
SHARE = 0.75
RELEASED_SHARE = 0.8

Mask = NDArray[np.bool_]
Corners = NDArray[np.int64]


def patches(grid: tuple[int, int], corners: ArrayLike, patch: int = PATCH) -> Mask:
    """bool (rows, columns), True inside the patches. corners: (n, 2), their upper left tokens."""
    mask = np.zeros(grid, dtype=np.bool_)
    for row, column in np.asarray(corners, dtype=np.int64).reshape(-1, 2).tolist():
        mask[row : row + patch, column : column + patch] = True
    return mask


def sample_mask(
    grid: tuple[int, int], rng: np.random.Generator, share: float = SHARE, patch: int = PATCH
) -> Mask:
    """bool (rows, columns): random patches anywhere in the image until ``share`` of it is masked.

    At most one patch more than needed; a grid smaller than a patch is masked completely.
    """
    rows, columns = (max(1, side - patch + 1) for side in grid)
    mask = np.zeros(grid, dtype=np.bool_)
    for corner in rng.permutation(rows * columns).tolist():
        if mask.mean() >= share:
            break
        mask |= patches(grid, [divmod(corner, columns)], patch)
    return mask


def sample_boxes(grid: tuple[int, int], rng: np.random.Generator, most: int = 3) -> Mask:
    """bool (rows, columns): one to ``most`` random rectangles, like the masks people paint to edit an image.

    Each side of a rectangle is from 2 tokens to two thirds of the image's side (less in a tiny image).
    """
    mask = np.zeros(grid, dtype=np.bool_)
    for _ in range(int(rng.integers(1, most + 1))):
        sides = [int(rng.integers(min(2, side), max(2 * side // 3, min(2, side)) + 1)) for side in grid]
        top, left = (int(rng.integers(side - size + 1)) for side, size in zip(grid, sides, strict=True))
        mask[top : top + sides[0], left : left + sides[1]] = True
    return mask


def released_corners(
    grid: tuple[int, int], rng: random.Random, share: float = RELEASED_SHARE, patch: int = PATCH
) -> Corners:
    """(n, 2) corners, sampled as in the released script: int(share * tokens / 16) numbers of one range."""
    rows, columns = (side - patch for side in grid)
    count = int(share * grid[0] * grid[1] / patch**2)
    return corners_of(rng.sample(range(rows * columns), count), grid, patch)


def released_mask(grid: tuple[int, int], rng: np.random.Generator) -> Mask:
    """bool (rows, columns): patches by the released rule, with a NumPy generator."""
    return patches(grid, released_corners(grid, random.Random(int(rng.integers(1 << 62)))))


def corners_of(numbers: ArrayLike, grid: tuple[int, int], patch: int = PATCH) -> Corners:
    """(n, 2) corners for the numbers (n,) that the released script samples: row by row, without the last."""
    indices = np.asarray(numbers, dtype=np.int64)
    columns = grid[1] - patch
    return np.stack([indices // columns, indices % columns], -1)


def runs(mask: ArrayLike) -> list[tuple[int, int]]:
    """(first, end) of every run of True in reading order: the mask regions [l, r] of equation 1."""
    flat = np.concatenate([[False], np.asarray(mask, dtype=np.bool_).ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]
