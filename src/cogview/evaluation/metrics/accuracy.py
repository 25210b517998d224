"""Attribute accuracy: the share of stated attributes that are read correctly, with floor and intervals.

Two figures per set of images. *Overall*: right ÷ stated over all statements. *Macro*: the mean of that share
over every (style, attribute), so that rare attributes weigh as much as common ones. Both are reported next to
a ceiling (the accuracy of the real images) and a floor (every caption against every other image of its style:
the expectation of shuffled prompts, without the noise of a shuffle).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cogview.config import Config

COLOUR = "_color"
GROUPS = {
    "face": ("eyes", "mouth", "expression", "beard", "facialHair"),
    "head and hair": ("head", "hair", "rearHair", "top", "hat"),
    "pattern": ("pattern", "surface"),
    "shape": ("body", "pot", "plant", "hill", "orb", "ring", "moons"),
}


def group_of(name: str) -> str:
    """The group of an attribute in reports; ``other`` for an unknown name."""
    if name.endswith(COLOUR):
        return "background colour" if name.startswith("background") else "colour of a part"
    return next((group for group, names in GROUPS.items() if name in names), "other")


class Figure(Config):
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Share(Config):
    """Right answers and their total."""

    right: int
    stated: int

    @property
    def value(self) -> float:
        """right ÷ stated; 0 if nothing is stated."""
        return self.right / self.stated if self.stated else 0.0


class Accuracy(Config):
    """The accuracy of one set of images. ``floor`` is None if no style has two images."""

    overall: Figure
    macro: Figure
    floor: float | None
    of_ceiling: Figure | None = None
    macro_of_ceiling: Figure | None = None
    by_group: dict[str, Share]
    by_style: dict[str, Share]
    by_attribute: dict[str, Share]


@dataclass(frozen=True)
class Answers:
    """A set of images: the classes that each caption states and those read from the image, by attribute."""

    styles: Sequence[str]
    stated: Sequence[Mapping[str, int]]
    read: Sequence[Mapping[str, int]]

    def __post_init__(self) -> None:
        assert len(self.styles) == len(self.stated) == len(self.read)

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        """Every (style, attribute) that a caption states, sorted."""
        pairs = zip(self.styles, self.stated, strict=True)
        return sorted({(style, name) for style, stated in pairs for name in stated})

    @cached_property
    def counts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Right answers and statements as zeros and ones, (images, cells) each."""
        column = {cell: i for i, cell in enumerate(self.cells)}
        right, total = (np.zeros((len(self.styles), len(column))) for _ in range(2))
        for row, (style, stated) in enumerate(zip(self.styles, self.stated, strict=True)):
            for name, label in stated.items():
                total[row, column[style, name]] = 1
                right[row, column[style, name]] = self.read[row].get(name) == label
        return right, total

    def shares(self, names: Sequence[str]) -> dict[str, Share]:
        """The sums of cells with the same name; ``names``: one name per cell."""
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name, right, stated in zip(names, *(matrix.sum(0) for matrix in self.counts), strict=True):
            sums[name][0] += int(right)
            sums[name][1] += int(stated)
        return {name: Share(right=right, stated=stated) for name, (right, stated) in sorted(sums.items())}


def floor(answers: Answers) -> float | None:
    """Overall accuracy of every caption against every *other* image of its style; None if there is none."""
    right = total = 0
    for style in set(answers.styles):
        rows = [row for row, other in enumerate(answers.styles) if other == style]
        for caption in rows:
            for name, label in answers.stated[caption].items():
                hits = [answers.read[row].get(name) == label for row in rows if row != caption]
                right += sum(hits)
                total += len(hits)
    return right / total if total else None


def bootstrap_weights(styles: Sequence[str], times: int, seed: int) -> NDArray[np.float64]:
    """Bootstrap weights (times + 1, images): how often each is sampled, stratified by style.

    The first row is all ones: the original sample.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((times + 1, len(styles)))
    for style in sorted(set(styles)):
        rows = [row for row, other in enumerate(styles) if other == style]
        weights[1:, rows] = rng.multinomial(len(rows), [1 / len(rows)] * len(rows), size=times)
    return weights


def overall(answers: Answers, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Right ÷ stated for each row of weights; NaN if nothing is stated."""
    right, stated = (weights @ matrix.sum(1) for matrix in answers.counts)
    return _divide(right, stated)


def macro(answers: Answers, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over (style, attribute) for each row of weights, without cells of weight zero."""
    right, stated = (weights @ matrix for matrix in answers.counts)
    shares = _divide(right, stated)
    valid = ~np.isnan(shares)
    return _divide(np.where(valid, shares, 0).sum(1), valid.sum(1).astype(np.float64))


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def figure(samples: NDArray[np.float64]) -> Figure:
    """The first sample as the value, and the 2.5th and 97.5th percentile of the others as its interval."""
    value = 0.0 if np.isnan(samples[0]) else float(samples[0])
    rest = samples[1:][~np.isnan(samples[1:])]
    low, high = np.percentile(rest, (2.5, 97.5)) if len(rest) else (value, value)
    return Figure(value=value, low=float(low), high=float(high))


def score(sets: Mapping[str, Answers], ceiling: str, times: int = 2000, seed: int = 0) -> dict[str, Accuracy]:
    """The accuracy of each set, and relative to the set ``ceiling``; all sets have the same captions.

    Numerator and denominator of a ratio are resampled together, so its interval is a paired one.
    """
    reference = sets[ceiling]
    weights = bootstrap_weights(reference.styles, times, seed)
    best, best_macro = overall(reference, weights), macro(reference, weights)
    accuracies: dict[str, Accuracy] = {}
    for name, answers in sets.items():
        assert list(answers.styles) == list(reference.styles)
        values, macro_values = overall(answers, weights), macro(answers, weights)
        accuracies[name] = Accuracy(
            overall=figure(values),
            macro=figure(macro_values),
            floor=floor(answers),
            of_ceiling=None if name == ceiling else figure(_divide(values, best)),
            macro_of_ceiling=None if name == ceiling else figure(_divide(macro_values, best_macro)),
            by_group=answers.shares([group_of(attribute) for _, attribute in answers.cells]),
            by_style=answers.shares([style for style, _ in answers.cells]),
            by_attribute=answers.shares([f"{style}/{attribute}" for style, attribute in answers.cells]),
        )
    return accuracies
