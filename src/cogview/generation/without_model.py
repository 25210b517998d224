"""Decoding without a model and without PyTorch: random streams, windows of guesses, beams of texts.

The engine and the runtime without PyTorch (``cogview.onnx``) decode by them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALL = 4  # rows up to which windows are faster than one token of each; see benchmarks/jacobi.py
LEAST = 8  # tokens sampled of one request
OF_TEXTS = 4  # fewer guesses are right, and what stands after the end is in vain
OF_KNOWN_TEXTS = 6  # where guesses come from a table of what follows what

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# ----------------------------------------------------------------------------------------- random streams


def stream_keys(pairs: Sequence[tuple[int, int]], steps: int) -> NDArray[np.uint64]:
    """64 random bits (steps, b) for every step of every (seed, index)."""
    seeds, indexes = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    with np.errstate(over="ignore"):
        streams = _mix64(_mix64(seeds + _GOLDEN) ^ indexes)
        counters = np.arange(1, steps + 1, dtype=np.uint64) * _GOLDEN
        return _mix64(streams + counters[:, None])


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood: Fast splittable pseudorandom number generators)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# ------------------------------------------------------------------------- windows of Jacobi decoding


def window_size(rows: int, text: bool, tokens: int, most: int, known: bool = False) -> int:
    """Tokens to sample of each request in the next forward: up to there it costs little more than one.

    Args:
        rows: that are read together, those of negative prompts among them.
        tokens: to read in one forward, all rows together; most: of one request.
        known: guesses of a text come from a table.
    """
    if text:
        return OF_KNOWN_TEXTS if known else OF_TEXTS
    return min(max(tokens // rows, LEAST), most)


After = Callable[[Sequence[int]], int | None]


class Guesses:
    """One request on its way.

    number: of the request; stop: the token that ends it; tokens: known ones, guesses, and -1 where nothing
    was guessed yet; open: the steps to sample, of which the first ``at`` are known; read: true tokens that
    the cache holds; after: a guess after some tokens, None where it has none.
    """

    def __init__(
        self, number: int, tokens: list[int], stop: int | None = None, after: After | None = None
    ) -> None:
        self.number, self.tokens, self.stop, self.after = number, tokens, stop, after
        self.open = [step for step, token in enumerate(self.tokens) if token < 0]
        self.at, self.read = 0, 0

    @property
    def done(self) -> bool:
        """Whether all tokens are known, or the text has ended."""
        return self.at == len(self.open)

    @property
    def known(self) -> int:
        """Tokens that are known, from the first on."""
        return len(self.tokens) if self.done else self.open[self.at]

    def guess(self, size: int) -> list[int]:
        """The next ``size`` steps to sample; where nothing was guessed yet, the token before is repeated.

        What :attr:`after` guesses comes before what was sampled after a wrong guess.
        """
        steps = self.open[self.at : self.at + size]
        for step in steps[:-1]:
            found = self.after(self.tokens[:step]) if self.after else None
            if found is not None:
                self.tokens[step] = found
            elif self.tokens[step] < 0:
                self.tokens[step] = self.tokens[step - 1]
        return steps

    def accept(self, steps: Sequence[int], sampled: Sequence[int]) -> int:
        """Take the tokens sampled at a window's steps, the next guesses; how many of them are true."""
        right, count = True, 0
        for step, token in zip(steps, sampled, strict=True):
            count += right
            right = right and self.tokens[step] == token
            self.tokens[step] = token
        self.at, self.read = self.at + count, steps[count - 1]
        if self.stop in sampled[:count]:
            self.at = len(self.open)
        return count


# --------------------------------------------------------------------------------------------------- beams

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

    Scores are divided by the length, the end token counted, so that short texts have no advantage. The search
    ends when no unfinished text can overtake the worst of the finished ones that are kept.

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
