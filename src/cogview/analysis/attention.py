"""What the attention heads of a model look at (CogView, appendix C), without changing the model.

Hooks read what enters each layer's attention and compute its scores again, a few heads at a time; only
statistics are kept, so memory does not grow with the depth:

- ``maps``       how much each place of the image is attended to (figures 12 and 13);
- ``words``      how much each place of the image attends to a word of the text (figure 13);
- ``offsets``    how much a code attends to the code n places before it (figure 12 a);
- ``matrix``     what every code gives to every code, pooled (the heat maps of figure 12);
- ``entropy``    the effective number of tokens attended to, which falls in the last layers (C.3);
- ``scores``     mean, least and largest score before the softmax (figure 14).

:func:`classify` names a head's positional bias from these.
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
MARKED = 0.6  # a share or correlation from which a bias is named
FIXED = 0.4  # the share of the codes' attention that one offset has, from which it is named
WHOLE = 1.5  # how much more than its best offset a whole column must have
FIRST_ROWS = 2
MATRIX = 144  # rows and columns of a head's matrix, at most
Bias = Literal["offset", "column", "first rows", "checker", "separator", "text", "half", "centre", "content"]


@dataclass(frozen=True)
class Layout:
    """Where things stand in the sequence: separators, text, and the image's codes (row by row).

    Each a tuple of places; ``grid`` rows and columns of the image.
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
    """One head of one layer; all shares are of the attention that the image's codes give.

    map: (rows, columns), mean attention a place gets from the codes that see it. words: (words, rows,
    columns), attention each place gives to a word. offsets: (codes,), mean attention to the code n
    places before; separators, text, first_rows, column (above in the same column): shares; effective: exp of
    the mean entropy, in tokens; matrix: (m, m), attention from codes to codes, groups of them added up and
    averaged; scores: by kind of pair, ``text to text``, ``image to text``, ``image to image``, of those that
    see each other, before any emphasis is added.
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
    """The facts of every head for one sequence.

    Args:
        ids, positions: (L,) int64, as the model was trained: text and image.
        words: for each word the places of its tokens.
        visibility: who sees whom (default: causal); a code no later ones.

    Returns:
        layer by layer, head by head.
    """
    found: list[HeadFacts] = []

    def hook(module: Attention) -> Callable[..., None]:
        def look(_: Any, given: tuple[Any, ...]) -> None:
            found.extend(head_facts(module, given[0], given[1], layout, words))

        return look

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
    return found


def head_facts(
    module: Attention, x: Tensor, view: View, layout: Layout, words: Sequence[Sequence[int]]
) -> list[HeadFacts]:
    """The facts of a layer's heads, from what enters it (1, L, h) and its view."""
    config, length = module.config, x.shape[1]
    query, key = (part[0].float() for part in module.query_key_value(x)[:2])  # (heads, L, d)
    seen = _seen(view, length)
    facts = []
    for first in range(0, config.heads, HEADS_AT_ONCE):
        heads = slice(first, first + HEADS_AT_ONCE)
        scores = query[heads] @ key[heads].mT / math.sqrt(config.head_dim)
        bias = 0 if view.bias is None else view.bias[0].float()
        attention = (scores + bias).masked_fill(~seen, -torch.inf).softmax(-1)
        for offset in range(len(attention)):
            facts.append(
                _facts(module.layer, first + offset, attention[offset], scores[offset], seen, layout, words)
            )
    return facts


def _seen(view: View, length: int) -> Tensor:
    """bool (L, L): who sees whom, for the first sequence and head."""
    assert view.allowed is not None
    return view.allowed[0, 0].expand(length, length)


def _facts(
    layer: int,
    head: int,
    attention: Tensor,
    scores: Tensor,
    seen: Tensor,
    layout: Layout,
    words: Sequence[Sequence[int]],
) -> HeadFacts:
    rows, columns = layout.grid
    first = columns * FIRST_ROWS
    given = attention[list(layout.codes)]  # (codes, L)
    among = given[:, list(layout.codes)].numpy()
    return HeadFacts(
        layer=layer,
        head=head,
        map=received(among).reshape(rows, columns),
        words=np.stack([given[:, list(word)].sum(1).numpy().reshape(rows, columns) for word in words])
        if words
        else np.zeros((0, rows, columns), dtype=np.float32),
        offsets=by_offset(among),
        separators=float(given[:, list(layout.separators)].sum(1).mean()),
        text=float(given[:, list(layout.text)].sum(1).mean()) if layout.text else 0.0,
        first_rows=float(among[first:, :first].sum(1).mean()) if rows > FIRST_ROWS else 0.0,
        effective=float(torch.special.entr(given).sum(1).mean().exp()),
        column=up_the_column(among, columns),
        matrix=pooled(among),
        scores={name: _range(scores, seen, q, k) for name, (q, k) in _pairs(layout).items() if q and k},
    )


def _pairs(layout: Layout) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {
        "text to text": (layout.text, layout.text),
        "image to text": (layout.codes, layout.text),
        "image to image": (layout.codes, layout.codes),
    }


def _range(scores: Tensor, seen: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Range:
    chosen = scores[list(queries)][:, list(keys)][seen[list(queries)][:, list(keys)]]
    return Range(float(chosen.min()), float(chosen.mean()), float(chosen.max()))


def received(among: Floats) -> Floats:
    """Mean attention (codes,) that each code gets from itself and later ones; among: (codes, codes)."""
    givers = np.arange(len(among), 0, -1, dtype=np.float32)
    mean: Floats = (among.sum(0) / givers).astype(np.float32)
    return mean


def by_offset(among: Floats) -> Floats:
    """Mean attention (codes,) to the code ``d`` places before, for d = 0, 1, 2 …"""
    means = [float(np.diagonal(among, -d).mean()) for d in range(len(among))]
    return np.array(means, dtype=np.float32)


def up_the_column(among: Floats, columns: int) -> float:
    """Share of the attention of all codes below the first row that goes to their own column above them."""
    queries = np.arange(columns, len(among))
    above = (np.arange(len(among))[None] < queries[:, None]) & (
        np.arange(len(among))[None] % columns == queries[:, None] % columns
    )
    return float((among[columns:] * above).sum(1).mean()) if len(queries) else 0.0


def pooled(among: Floats, most: int = MATRIX) -> Floats:
    """Attention (m, m) of groups of codes to groups of codes, m at most ``most``: a group's mean sum."""
    size = -(-len(among) // most)
    groups = -(-len(among) // size)
    wide = np.zeros((groups * size, groups * size), dtype=np.float32)
    wide[: len(among), : len(among)] = among
    counts = np.minimum(size, len(among) - size * np.arange(groups))
    summed: Floats = (wide.reshape(groups, size, groups, size).sum((1, 3)) / counts[:, None]).astype(
        np.float32
    )
    return summed


# ------------------------------------------------------------------------------------------- what it means


@dataclass(frozen=True)
class Verdict:
    """A head's bias and how strong it is (0 to 1); ``offset``: (rows up, columns left) of a fixed offset."""

    bias: Bias
    strength: float
    offset: tuple[int, int] | None = None


def classify(facts: HeadFacts) -> Verdict:
    """The strongest positional bias of a head, ``content`` where none is marked (CogView, figure 12)."""
    if facts.separators > MARKED:
        return Verdict("separator", facts.separators)
    if facts.text > MARKED:
        return Verdict("text", facts.text)
    columns, among = facts.map.shape[1], 1 - facts.separators - facts.text
    best = int(facts.offsets[: len(facts.offsets) // 2].argmax())
    share, column = float(facts.offsets[best]) / max(among, 1e-6), facts.column / max(among, 1e-6)
    if column > MARKED and column > WHOLE * share:
        return Verdict("column", min(1.0, column))
    if share > FIXED:
        return Verdict("offset", min(1.0, share), _in_rows(best, columns))
    if facts.first_rows / max(among, 1e-6) > MARKED:
        return Verdict("first rows", min(1.0, facts.first_rows / max(among, 1e-6)))
    named = {"checker": checker(facts.map), "half": halves(facts.map), "centre": centre(facts.map)}
    name, strength = max(named.items(), key=lambda item: item[1])
    if strength > MARKED:
        return Verdict(name, strength)  # type: ignore[arg-type]
    return Verdict("content", 1 - strength)


def _in_rows(offset: int, columns: int) -> tuple[int, int]:
    """(rows up, columns left) of an offset in the raster; a little to the right is negative."""
    rows, left = divmod(offset, columns)
    return (rows + 1, left - columns) if left > columns // 2 else (rows, left)


def checker(map: Floats) -> float:
    """Correlation, as a size, with a chessboard after the neighbourhood's level is taken off."""
    rows, columns = np.indices(map.shape)
    board = np.where((rows + columns) % 2, 1.0, -1.0)
    padded = np.pad(map, 1, mode="edge")
    around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    return abs(_correlation(map - around, board))


def halves(map: Floats) -> float:
    """Correlation, as a size, with upper against lower half; the first two rows are left out."""
    rows = np.indices(map.shape)[0]
    return abs(_correlation(map[2:], np.where(rows < len(map) // 2, 1.0, -1.0)[2:]))


def centre(map: Floats) -> float:
    """Correlation with a disc in the middle, 0 where it is negative."""
    rows, columns = np.indices(map.shape)
    away = np.hypot((rows - (len(map) - 1) / 2) / len(map), (columns - (map.shape[1] - 1) / 2) / map.shape[1])
    return max(0.0, _correlation(map, np.where(away < 0.3, 1.0, -1.0)))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = (x - x.mean() for x in (a.astype(np.float64), b.astype(np.float64)))
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 1e-12 else 0.0


# ----------------------------------------------------------------------------------------- segmentation


def regions(colours: Floats, count: int = 3, rounds: int = 20) -> NDArray[np.int64]:
    """Places (n,) by their colours (n, 3), in ``count`` regions: k-means from the colours farthest apart."""
    centres = [colours.mean(0)]
    for _ in range(count):
        away = np.min([((colours - centre) ** 2).sum(1) for centre in centres], axis=0)
        centres.append(colours[int(away.argmax())])
    middle = np.stack(centres[1:])
    for _ in range(rounds):
        labels = ((colours[:, None] - middle[None]) ** 2).sum(-1).argmin(1)
        middle = np.stack(
            [colours[labels == i].mean(0) if (labels == i).any() else middle[i] for i in range(count)]
        )
    found: NDArray[np.int64] = ((colours[:, None] - middle[None]) ** 2).sum(-1).argmin(1).astype(np.int64)
    return found


def explained(map: Floats, labels: NDArray[np.int64]) -> float:
    """Share (0 to 1) of a map's variance that lies between regions: how far it follows the image."""
    values = map.ravel().astype(np.float64)
    total = float(((values - values.mean()) ** 2).sum())
    between = sum(
        (labels == label).sum() * (values[labels == label].mean() - values.mean()) ** 2
        for label in np.unique(labels)
    )
    return float(between) / total if total > 1e-20 else 0.0
