"""Statistics of a model's attention heads (CogView, appendix C), without changing the model.

Hooks read the input of each layer's attention and recompute its scores, a few heads at a time; only
statistics are kept, so memory does not grow with depth:

- ``map``        the attention that each image position receives (figures 12 and 13);
- ``words``      the attention that each image position gives to a word of the text (figure 13);
- ``offsets``    the attention of a code to the code n positions before it (figure 12 a);
- ``matrix``     the pooled attention matrix of codes to codes (the heat maps of figure 12);
- ``effective``  the effective number of tokens attended to, which falls in the last layers (C.3);
- ``scores``     mean, least and largest score before the softmax (figure 14).

:func:`classify` derives a head's positional bias from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogview.transformer.attention import Causal, ReferencePattern, View, Visibility
from cogview.transformer.block import Attention
from cogview.transformer.model import Transformer

Floats = NDArray[np.float32]
HEADS_AT_ONCE = 8
MIN_STRENGTH = 0.6  # minimum share or correlation for a bias to be named
MIN_OFFSET = 0.4  # minimum share of one offset in the codes' attention
COLUMN_FACTOR = 1.5  # minimum ratio of a full column to the best offset
FIRST_ROWS = 2
MATRIX = 144  # maximum number of rows and columns of a head's pooled matrix
Bias = Literal["offset", "column", "first rows", "checker", "separator", "text", "half", "centre", "content"]


@dataclass(frozen=True)
class Layout:
    """Positions in the sequence of separators, text, and the image's codes (row by row).

    ``grid``: rows and columns of the image.
    """

    separators: tuple[int, ...]
    text: tuple[int, ...]
    codes: tuple[int, ...]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        assert len(self.codes) == self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Range:
    """Least, mean and largest score of a group of (query, key) pairs."""

    least: float
    mean: float
    largest: float


@dataclass(frozen=True)
class HeadFacts:
    """Statistics of one head of one layer; all shares are of the attention that the image's codes give.

    map: (rows, columns), mean attention that a position receives from the codes that see it; words: (words,
    rows, columns), attention that each position gives to a word; offsets: (codes,), mean attention to the
    code n positions before; separators, text, first_rows, column (codes above in the same column): shares;
    effective: exp of the mean entropy, in tokens; matrix: (m, m), pooled attention from codes to codes;
    scores: by kind of pair (``text to text``, ``image to text``, ``image to image``), unmasked, before any
    attention bias is added.
    """

    layer: int
    head: int
    map: Floats
    words: Floats
    offsets: Floats
    separators: float
    text: float
    first_rows: float
    effective: float
    column: float = 0.0
    matrix: Floats = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    scores: dict[str, Range] = field(default_factory=dict)


def observe(
    model: Transformer,
    ids: Tensor,
    positions: Tensor,
    layout: Layout,
    words: Sequence[Sequence[int]] = (),
    visibility: Visibility | None = None,
) -> list[HeadFacts]:
    """The statistics of every head for one sequence.

    Args:
        ids, positions: (L,) int64, text and image in the format of training.
        words: for each word the positions of its tokens.
        visibility: the attention pattern (default: causal); codes must not see later ones.

    Returns:
        one entry per head, layer by layer.
    """
    facts: list[HeadFacts] = []

    def hook(module: Attention) -> Callable[..., None]:
        def record(_: Any, args: tuple[Any, ...]) -> None:
            facts.extend(head_facts(module, args[0], args[1], layout, words))

        return record

    layers = [module for module in model.modules() if isinstance(module, Attention)]
    handles = [layer.register_forward_pre_hook(hook(layer)) for layer in layers]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(ids[None], positions[None], ReferencePattern(visibility or Causal()))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return facts


def head_facts(
    module: Attention, x: Tensor, view: View, layout: Layout, words: Sequence[Sequence[int]]
) -> list[HeadFacts]:
    """The statistics of a layer's heads, from its input (1, L, h) and its view."""
    config, length = module.config, x.shape[1]
    query, key = (part[0].float() for part in module.query_key_value(x)[:2])  # (heads, L, d)
    mask = _mask(view, length)
    facts = []
    for first in range(0, config.heads, HEADS_AT_ONCE):
        heads = slice(first, first + HEADS_AT_ONCE)
        scores = query[heads] @ key[heads].mT / math.sqrt(config.head_dim)
        bias = 0 if view.bias is None else view.bias[0].float()
        attention = (scores + bias).masked_fill(~mask, -torch.inf).softmax(-1)
        for offset in range(len(attention)):
            facts.append(
                _facts(module.layer, first + offset, attention[offset], scores[offset], mask, layout, words)
            )
    return facts


def _mask(view: View, length: int) -> Tensor:
    """The attention mask (L, L) bool of the first sequence and head; True where attention is allowed."""
    assert view.allowed is not None
    return view.allowed[0, 0].expand(length, length)


def _facts(
    layer: int,
    head: int,
    attention: Tensor,
    scores: Tensor,
    mask: Tensor,
    layout: Layout,
    words: Sequence[Sequence[int]],
) -> HeadFacts:
    rows, columns = layout.grid
    first = columns * FIRST_ROWS
    from_codes = attention[list(layout.codes)]  # (codes, L)
    between = from_codes[:, list(layout.codes)].numpy()  # (codes, codes)
    return HeadFacts(
        layer=layer,
        head=head,
        map=received(between).reshape(rows, columns),
        words=np.stack([from_codes[:, list(word)].sum(1).numpy().reshape(rows, columns) for word in words])
        if words
        else np.zeros((0, rows, columns), dtype=np.float32),
        offsets=by_offset(between),
        separators=float(from_codes[:, list(layout.separators)].sum(1).mean()),
        text=float(from_codes[:, list(layout.text)].sum(1).mean()) if layout.text else 0.0,
        first_rows=float(between[first:, :first].sum(1).mean()) if rows > FIRST_ROWS else 0.0,
        effective=float(torch.special.entr(from_codes).sum(1).mean().exp()),
        column=column_share(between, columns),
        matrix=pooled(between),
        scores={name: _range(scores, mask, q, k) for name, (q, k) in _pairs(layout).items() if q and k},
    )


def _pairs(layout: Layout) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {
        "text to text": (layout.text, layout.text),
        "image to text": (layout.codes, layout.text),
        "image to image": (layout.codes, layout.codes),
    }


def _range(scores: Tensor, mask: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Range:
    selected = scores[list(queries)][:, list(keys)][mask[list(queries)][:, list(keys)]]
    return Range(float(selected.min()), float(selected.mean()), float(selected.max()))


def received(attention: Floats) -> Floats:
    """Mean attention (codes,) that each code receives from itself and later ones, of (codes, codes)."""
    queries = np.arange(len(attention), 0, -1, dtype=np.float32)
    mean: Floats = (attention.sum(0) / queries).astype(np.float32)
    return mean


def by_offset(attention: Floats) -> Floats:
    """Mean attention (codes,) to the code ``d`` positions before, for d = 0, 1, 2 …"""
    means = [float(np.diagonal(attention, -d).mean()) for d in range(len(attention))]
    return np.array(means, dtype=np.float32)


def column_share(attention: Floats, columns: int) -> float:
    """Share of the attention of codes below the first row that goes to codes above them in their column."""
    queries = np.arange(columns, len(attention))
    above = (np.arange(len(attention))[None] < queries[:, None]) & (
        np.arange(len(attention))[None] % columns == queries[:, None] % columns
    )
    return float((attention[columns:] * above).sum(1).mean()) if len(queries) else 0.0


def pooled(attention: Floats, limit: int = MATRIX) -> Floats:
    """Attention (m, m) between groups of codes, m at most ``limit``: summed over keys, mean over queries."""
    size = -(-len(attention) // limit)
    groups = -(-len(attention) // size)
    padded = np.zeros((groups * size, groups * size), dtype=np.float32)
    padded[: len(attention), : len(attention)] = attention
    counts = np.minimum(size, len(attention) - size * np.arange(groups))
    means: Floats = (padded.reshape(groups, size, groups, size).sum((1, 3)) / counts[:, None]).astype(
        np.float32
    )
    return means


# --------------------------------------------------------------------------------------- classification


@dataclass(frozen=True)
class Verdict:
    """A head's bias and its strength (0 to 1); ``offset``: (rows up, columns left) of a fixed offset."""

    bias: Bias
    strength: float
    offset: tuple[int, int] | None = None


def classify(facts: HeadFacts) -> Verdict:
    """The strongest positional bias of a head, ``content`` if there is none (CogView, figure 12)."""
    if facts.separators > MIN_STRENGTH:
        return Verdict("separator", facts.separators)
    if facts.text > MIN_STRENGTH:
        return Verdict("text", facts.text)
    columns, to_codes = facts.map.shape[1], max(1 - facts.separators - facts.text, 1e-6)
    best = int(facts.offsets[: len(facts.offsets) // 2].argmax())
    share, column = float(facts.offsets[best]) / to_codes, facts.column / to_codes
    if column > MIN_STRENGTH and column > COLUMN_FACTOR * share:
        return Verdict("column", min(1.0, column))
    if share > MIN_OFFSET:
        return Verdict("offset", min(1.0, share), _in_rows(best, columns))
    if facts.first_rows / to_codes > MIN_STRENGTH:
        return Verdict("first rows", min(1.0, facts.first_rows / to_codes))
    patterns = {"checker": checker(facts.map), "half": halves(facts.map), "centre": centre(facts.map)}
    name, strength = max(patterns.items(), key=lambda item: item[1])
    if strength > MIN_STRENGTH:
        return Verdict(name, strength)  # type: ignore[arg-type]
    return Verdict("content", 1 - strength)


def _in_rows(offset: int, columns: int) -> tuple[int, int]:
    """(rows up, columns left) of a raster offset; negative columns are to the right."""
    rows, left = divmod(offset, columns)
    return (rows + 1, left - columns) if left > columns // 2 else (rows, left)


def checker(map: Floats) -> float:
    """Absolute correlation with a checkerboard after subtracting the mean of the neighbours."""
    rows, columns = np.indices(map.shape)
    board = np.where((rows + columns) % 2, 1.0, -1.0)
    padded = np.pad(map, 1, mode="edge")
    around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    return abs(_correlation(map - around, board))


def halves(map: Floats) -> float:
    """Absolute correlation with upper against lower half, without the first two rows."""
    rows = np.indices(map.shape)[0]
    return abs(_correlation(map[2:], np.where(rows < len(map) // 2, 1.0, -1.0)[2:]))


def centre(map: Floats) -> float:
    """Correlation with a central disc, at least 0."""
    rows, columns = np.indices(map.shape)
    y, x = (rows - (len(map) - 1) / 2) / len(map), (columns - (map.shape[1] - 1) / 2) / map.shape[1]
    return max(0.0, _correlation(map, np.where(np.hypot(y, x) < 0.3, 1.0, -1.0)))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = (x - x.mean() for x in (a.astype(np.float64), b.astype(np.float64)))
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-12 else 0.0


# ----------------------------------------------------------------------------------------- segmentation


def regions(colours: Floats, count: int = 3, rounds: int = 20) -> NDArray[np.int64]:
    """Cluster positions by colour (n, 3) into ``count`` regions (n,): k-means from farthest-point seeds."""
    seeds = [colours.mean(0)]
    for _ in range(count):
        distances = np.min([((colours - seed) ** 2).sum(1) for seed in seeds], axis=0)
        seeds.append(colours[int(distances.argmax())])
    centres = np.stack(seeds[1:])
    for _ in range(rounds):
        labels = ((colours[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        centres = np.stack(
            [colours[labels == i].mean(0) if (labels == i).any() else centres[i] for i in range(count)]
        )
    nearest: NDArray[np.int64] = ((colours[:, None] - centres[None]) ** 2).sum(-1).argmin(1).astype(np.int64)
    return nearest


def explained(map: Floats, labels: NDArray[np.int64]) -> float:
    """The share (0 to 1) of a map's variance that the regions explain: how far it follows the image."""
    values = map.ravel().astype(np.float64)
    total = float(((values - values.mean()) ** 2).sum())
    between = sum(
        (labels == label).sum() * (values[labels == label].mean() - values.mean()) ** 2
        for label in np.unique(labels)
    )
    return float(between) / total if total > 1e-20 else 0.0
