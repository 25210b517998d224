"""The figures of Figure 10 from the answers: means with deviations and intervals, shares of the best, A-B.

Deviations are sample standard deviations over scores, as the paper's error bars. Intervals are 95 %
percentile intervals of a bootstrap over raters: a rater's scores belong together, so raters are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogview.config import Config
from cogview.study.records import SCALES
from cogview.study.store import Answer

RESAMPLES = 2000
Interval = tuple[float, float]
Outcome = Literal["kept", "inconsistent", "unfinished", "not begun"]
Weights = NDArray[np.float64]


class RaterFigures(Config):
    """One rater. consistency: share of groups whose chosen best had the highest overall score."""

    rater: int
    half: int
    asked: int
    scored: int
    chosen: int
    consistency: float | None
    outcome: Outcome


class Mean(Config):
    """n: number of scores; deviation: of single scores; interval: of the mean, None with one rater."""

    n: int
    mean: float
    deviation: float | None
    interval: Interval | None


class Share(Config):
    """How often a model was chosen as the best (``best``) of the groups in which it was shown (``shown``)."""

    best: int
    shown: int
    share: float
    interval: Interval | None


class ModelFigures(Config):
    """What raters said of a model."""

    scores: dict[str, Mean]
    best: Share


class Difference(Config):
    """The A-B test: the mean of ``second`` less that of ``first``, by scale, with its interval."""

    first: str
    second: str
    difference: dict[str, float]
    interval: dict[str, Interval | None]


class Figures(Config):
    """All of it. raters: every one who was invited; models: of those kept; ab: None without such a test."""

    raters: tuple[RaterFigures, ...]
    models: dict[str, ModelFigures]
    ab: Difference | None

    def count(self, *outcomes: Outcome) -> int:
        """How many raters came to one of these outcomes; all with none given."""
        return sum(not outcomes or rater.outcome in outcomes for rater in self.raters)


def judge_rater(answers: Sequence[Answer], threshold: float) -> RaterFigures:
    """Whether a rater counts: everything answered, and consistent in more than ``threshold`` of groups."""
    groups = [list(group) for _, group in groupby(answers, key=lambda answer: answer.position)]
    chosen = [group for group in groups if any(answer.best for answer in group)]
    agree = sum(_agrees(group) for group in chosen)
    scored = sum(answer.overall is not None for answer in answers)
    share = agree / len(chosen) if chosen else None
    outcome: Outcome = "not begun" if not scored else "unfinished"
    if scored == len(answers) and len(chosen) == len(groups) and share is not None:
        outcome = "kept" if share > threshold else "inconsistent"
    first = answers[0]
    return RaterFigures(
        rater=first.rater,
        half=first.half,
        asked=len(answers),
        scored=scored,
        chosen=len(chosen),
        consistency=share,
        outcome=outcome,
    )


def _agrees(group: Sequence[Answer]) -> bool:
    """The best has the highest overall score of its group, alone or with others."""
    return max(a.overall or 0 for a in group) == max(a.overall or 0 for a in group if a.best)


def by_rater(answers: Iterable[Answer]) -> dict[int, list[Answer]]:
    """Answers by rater, in the order of positions."""
    ordered = sorted(answers, key=lambda answer: (answer.rater, answer.position, answer.slot))
    return {rater: list(group) for rater, group in groupby(ordered, key=lambda answer: answer.rater)}


def compute(
    answers: Iterable[Answer],
    models: Sequence[str],
    ab: tuple[str, str] | None = None,
    threshold: float = 0.8,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figures:
    """The figures of a study; ``models`` is empty in them where no rater is kept."""
    raters = by_rater(answers)
    judged = tuple(judge_rater(group, threshold) for group in raters.values())
    kept = [raters[rater.rater] for rater in judged if rater.outcome == "kept"]
    if not kept:
        return Figures(raters=judged, models={}, ab=None)
    draws = np.random.default_rng(seed).multinomial(len(kept), [1 / len(kept)] * len(kept), size=resamples)
    weights: Weights = draws.astype(np.float64)  # (resamples, raters): how often each rater was drawn
    tables = {model: _Table(kept, model) for model in models}
    figures = {name: table.figures(weights) for name, table in tables.items() if table.shown.sum()}
    both = ab is not None and set(ab) <= set(figures)
    difference = _difference(tables, ab, weights) if ab and both else None
    return Figures(raters=judged, models=figures, ab=difference)


class _Table:
    """A model's answers, summed by rater. sums: scale to (raters,); shown, best: (raters,)."""

    def __init__(self, raters: Sequence[Sequence[Answer]], model: str) -> None:
        mine = [[answer for answer in group if answer.model == model] for group in raters]
        self.scores: Mapping[str, list[list[int]]] = {
            scale: [[int(getattr(answer, scale)) for answer in group] for group in mine] for scale in SCALES
        }
        self.sums = {scale: _sums(groups) for scale, groups in self.scores.items()}
        self.shown = np.array([float(len(group)) for group in mine])
        self.best = np.array([float(sum(bool(answer.best) for answer in group)) for group in mine])

    def figures(self, weights: Weights) -> ModelFigures:
        shown, best = int(self.shown.sum()), int(self.best.sum())
        interval = _interval(_ratios(weights, self.best, self.shown))
        scores = {scale: self._mean(scale, weights) for scale in SCALES}
        return ModelFigures(
            scores=scores, best=Share(best=best, shown=shown, share=best / shown, interval=interval)
        )

    def means(self, scale: str, weights: Weights) -> Weights:
        """The mean score in every resample, (resamples,)."""
        return _ratios(weights, self.sums[scale], self.shown)

    def _mean(self, scale: str, weights: Weights) -> Mean:
        values = np.array([value for group in self.scores[scale] for value in group], dtype=np.float64)
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        interval = _interval(self.means(scale, weights))
        return Mean(n=len(values), mean=float(values.mean()), deviation=deviation, interval=interval)


def _sums(groups: Sequence[Sequence[int]]) -> Weights:
    return np.array([float(sum(group)) for group in groups])


def _ratios(weights: Weights, above: Weights, below: Weights) -> Weights:
    """above / below in every resample; those that drew nothing below are left out."""
    if weights.shape[1] < 2:
        return np.empty(0)
    over, under = weights @ above, weights @ below
    ratios: Weights = over[under > 0] / under[under > 0]
    return ratios


def _interval(values: Weights) -> Interval | None:
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _difference(tables: Mapping[str, _Table], ab: tuple[str, str], weights: Weights) -> Difference:
    first, second = (tables[name] for name in ab)
    seen = (weights @ first.shown > 0) & (weights @ second.shown > 0)
    difference = {
        scale: float(
            second.sums[scale].sum() / second.shown.sum() - first.sums[scale].sum() / first.shown.sum()
        )
        for scale in SCALES
    }
    spread = {
        scale: _interval(second.means(scale, weights[seen]) - first.means(scale, weights[seen]))
        for scale in SCALES
    }
    return Difference(first=ab[0], second=ab[1], difference=difference, interval=spread)
