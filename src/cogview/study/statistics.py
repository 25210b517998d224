"""Statistics of figure 10: means with deviations and intervals, shares of best choices, the A-B test.

Deviations are sample standard deviations over scores, as the paper's error bars. Intervals are 95 %
percentile intervals of a bootstrap over raters, because the scores of one rater are not independent.
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
    """One rater. consistency: share of groups whose chosen best image had the highest overall score."""

    rater: int
    half: int
    asked: int
    scored: int
    chosen: int
    consistency: float | None
    outcome: Outcome


class Mean(Config):
    """A mean score. n: number of scores; deviation: of single scores; interval: of the mean, if 2+ raters."""

    n: int
    mean: float
    deviation: float | None
    interval: Interval | None


class Share(Config):
    """How often a model was chosen as the best (``best``) in the groups in which it was shown (``shown``)."""

    best: int
    shown: int
    share: float
    interval: Interval | None


class ModelFigures(Config):
    """The ratings of a model."""

    scores: dict[str, Mean]
    best: Share


class Difference(Config):
    """The A-B test: the mean of ``second`` minus that of ``first``, by scale, with its interval."""

    first: str
    second: str
    difference: dict[str, float]
    interval: dict[str, Interval | None]


class Figures(Config):
    """All statistics. raters: all invited ones; models: of the raters kept; ab: None without an A-B test."""

    raters: tuple[RaterFigures, ...]
    models: dict[str, ModelFigures]
    ab: Difference | None

    def count(self, *outcomes: Outcome) -> int:
        """The number of raters with one of these outcomes; of all raters if none is given."""
        return sum(not outcomes or rater.outcome in outcomes for rater in self.raters)


def judge_rater(answers: Sequence[Answer], threshold: float) -> RaterFigures:
    """The figures of a rater; kept if everything is answered and more than ``threshold`` of groups agree."""
    groups = [list(group) for _, group in groupby(answers, key=lambda answer: answer.position)]
    decided = [group for group in groups if any(answer.best for answer in group)]
    agree = sum(_agrees(group) for group in decided)
    scored = sum(answer.overall is not None for answer in answers)
    share = agree / len(decided) if decided else None
    outcome: Outcome = "not begun" if not scored else "unfinished"
    if scored == len(answers) and len(decided) == len(groups) and share is not None:
        outcome = "kept" if share > threshold else "inconsistent"
    first = answers[0]
    return RaterFigures(
        rater=first.rater,
        half=first.half,
        asked=len(answers),
        scored=scored,
        chosen=len(decided),
        consistency=share,
        outcome=outcome,
    )


def _agrees(group: Sequence[Answer]) -> bool:
    """Whether the best image has the highest overall score of its group, possibly tied."""
    return max(a.overall or 0 for a in group) == max(a.overall or 0 for a in group if a.best)


def by_rater(answers: Iterable[Answer]) -> dict[int, list[Answer]]:
    """Answers by rater, sorted by position."""
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
    """Compute the figures of a study; their ``models`` is empty if no rater is kept."""
    raters = by_rater(answers)
    by_outcome = tuple(judge_rater(group, threshold) for group in raters.values())
    kept = [raters[rater.rater] for rater in by_outcome if rater.outcome == "kept"]
    if not kept:
        return Figures(raters=by_outcome, models={}, ab=None)
    counts = np.random.default_rng(seed).multinomial(len(kept), [1 / len(kept)] * len(kept), size=resamples)
    weights: Weights = counts.astype(np.float64)  # (resamples, raters): how often each rater is sampled
    tables = {model: _Table(kept, model) for model in models}
    figures = {name: table.figures(weights) for name, table in tables.items() if table.shown.sum()}
    both = ab is not None and set(ab) <= set(figures)
    difference = _difference(tables, ab, weights) if ab and both else None
    return Figures(raters=by_outcome, models=figures, ab=difference)


class _Table:
    """A model's answers, summed by rater. sums: by scale (raters,); shown, best: (raters,)."""

    def __init__(self, raters: Sequence[Sequence[Answer]], model: str) -> None:
        of_model = [[answer for answer in group if answer.model == model] for group in raters]
        self.scores: Mapping[str, list[list[int]]] = {
            scale: [[int(getattr(answer, scale)) for answer in group] for group in of_model]
            for scale in SCALES
        }
        self.sums = {scale: _sums(groups) for scale, groups in self.scores.items()}
        self.shown = np.array([float(len(group)) for group in of_model])
        self.best = np.array([float(sum(bool(answer.best) for answer in group)) for group in of_model])

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


def _ratios(weights: Weights, numerators: Weights, denominators: Weights) -> Weights:
    """The ratio in every resample, without those whose denominator is 0; empty for one rater."""
    if weights.shape[1] < 2:
        return np.empty(0)
    top, bottom = weights @ numerators, weights @ denominators
    ratios: Weights = top[bottom > 0] / bottom[bottom > 0]
    return ratios


def _interval(values: Weights) -> Interval | None:
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _difference(tables: Mapping[str, _Table], ab: tuple[str, str], weights: Weights) -> Difference:
    first, second = (tables[name] for name in ab)
    valid = (weights @ first.shown > 0) & (weights @ second.shown > 0)
    difference = {
        scale: float(
            second.sums[scale].sum() / second.shown.sum() - first.sums[scale].sum() / first.shown.sum()
        )
        for scale in SCALES
    }
    intervals = {
        scale: _interval(second.means(scale, weights[valid]) - first.means(scale, weights[valid]))
        for scale in SCALES
    }
    return Difference(first=ab[0], second=ab[1], difference=difference, interval=intervals)
