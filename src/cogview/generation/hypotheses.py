"""Beam search without a model: which texts are followed, and when the best ones are found.

Scores are divided by the length, the end token counted, so that short texts have no advantage. The search
ends when no unfinished text can overtake the worst of the finished ones that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
# step, for each text that goes on the number of the one it continues, and its last token -> log-probabilities
Score = Callable[[int, Sequence[int], Sequence[int]], Scores]


@dataclass(frozen=True)
class Beam:
    """A text: ids of the vocabulary without the end token, and the sum of the log-probabilities of its
    ``length`` tokens, the end token counted."""

    ids: tuple[int, ...]
    total: float
    length: int

    @property
    def score(self) -> float:
        """The mean log-probability of a token, in nats."""
        return self.total / self.length


def follow(score: Score, steps: int, first: int, stop: int | None, beams: int) -> list[Beam]:
    """The best texts of at most ``steps`` tokens, up to ``beams`` of them, the best first.

    Args:
        score: log-probabilities (texts, v) of the next token, given the step, the parents of the texts that
            are followed and their last tokens (none at the first step, where there is one empty text).
        first: the id of column 0; stop: the token that ends a text.
    """
    live, done, parents = [Beam((), 0.0, 0)], list[Beam](), list[int]()
    for step in range(steps):
        scores = score(step, parents, [beam.ids[-1] for beam in live if beam.ids])
        parents, live, ended = _extend(live, scores, first, stop, beams)
        done = _best(done + ended, beams)
        if step + 1 == steps:
            return _best(done + live, beams)  # texts that are cut
        if not live or (len(done) == beams and _ceiling(live, steps) <= done[-1].score):
            break
    return done


def _ceiling(live: list[Beam], longest: int) -> float:
    """The best score that unfinished texts can still get: totals only fall, lengths end at ``longest``."""
    return max(beam.total for beam in live) / longest


def _extend(
    live: list[Beam], scores: Scores, first: int, stop: int | None, beams: int
) -> tuple[list[int], list[Beam], list[Beam]]:
    """The best continuations: parents and beams of those that go on, and those that ended."""
    totals = (np.array([[beam.total] for beam in live]) + scores).ravel()
    count = min(2 * beams, totals.size)
    best = np.argpartition(-totals, count - 1)[:count]
    parents, going, ended = [], list[Beam](), list[Beam]()
    for place in best[np.argsort(-totals[best], kind="stable")].tolist():
        parent, token = divmod(place, scores.shape[1])
        old, token, total = live[parent], token + first, float(totals[place])
        if total == -np.inf or len(going) == beams:
            break
        if token == stop:
            ended.append(Beam(old.ids, total, old.length + 1))
        else:
            going.append(Beam((*old.ids, token), total, old.length + 1))
            parents.append(parent)
    return parents, going, ended


def _best(found: list[Beam], beams: int) -> list[Beam]:
    return sorted(found, key=lambda beam: -beam.score)[:beams]
