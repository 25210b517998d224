"""The model-independent parts of decoding, without PyTorch: random streams, windows of guesses, beam search.

They are shared by the engine and the runtime without PyTorch (``cogview.onnx``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALL = 4  # rows up to which windows are faster than sequential decoding; see benchmarks/jacobi.py
LEAST = 8  # smallest window for images
OF_TEXTS = 4  # window for texts: fewer guesses are correct, and tokens after the end are wasted
OF_KNOWN_TEXTS = 6  # window for texts with guesses from a next-token table

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# ----------------------------------------------------------------------------------------- random streams


def stream_keys(pairs: Sequence[tuple[int, int]], steps: int) -> NDArray[np.uint64]:
    """Random bits, uint64 (steps, b), for every step of every (seed, index)."""
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
    """The window size of each request: a forward up to this size costs little more than one of one token.

    Args:
        rows: number of rows in the forward, including negative prompts.
        text: whether a text is decoded.
        tokens: number of tokens in one forward, over all rows.
        most: the largest window.
        known: guesses for a text come from a table.
    """
    if text:
        return OF_KNOWN_TEXTS if known else OF_TEXTS
    return min(max(tokens // rows, LEAST), most)


After = Callable[[Sequence[int]], int | None]


class Guesses:
    """The state of one request in Jacobi decoding.

    number: of the request; stop: its stop token; tokens: known tokens, guesses, and -1 where there is no
    guess yet; open: the steps to sample, of which the first ``at`` are known; read: number of correct tokens
    in the cache; after: returns a guess for the token after some tokens, or None.
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
        """The number of leading known tokens."""
        return len(self.tokens) if self.done else self.open[self.at]

    def guess(self, size: int) -> list[int]:
        """The next ``size`` steps to sample; their tokens are guessed.

        A guess of :attr:`after` takes precedence over a token that was sampled after a wrong guess; without
        either, the preceding token is repeated.
        """
        steps = self.open[self.at : self.at + size]
        for step in steps[:-1]:
            guess = self.after(self.tokens[:step]) if self.after else None
            if guess is not None:
                self.tokens[step] = guess
            elif self.tokens[step] < 0:
                self.tokens[step] = self.tokens[step - 1]
        return steps

    def accept(self, steps: Sequence[int], sampled: Sequence[int]) -> int:
        """Store the tokens sampled at a window's steps; returns how many of them are correct, the others are
        guesses."""
        correct, count = True, 0
        for step, token in zip(steps, sampled, strict=True):
            count += correct
            correct = correct and self.tokens[step] == token
            self.tokens[step] = token
        self.at, self.read = self.at + count, steps[count - 1]
        if self.stop in sampled[:count]:
            self.at = len(self.open)
        return count


# --------------------------------------------------------------------------------------------------- beams

Scores = NDArray[np.float64]
# step, for each unfinished text the number of its parent and its last token -> log-probabilities
Score = Callable[[int, Sequence[int], Sequence[int]], Scores]


@dataclass(frozen=True)
class Beam:
    """A text: ids of the vocabulary without the end token, and the sum of the log-probabilities of its
    ``length`` tokens, which include the end token."""

    ids: tuple[int, ...]
    total: float
    length: int

    @property
    def score(self) -> float:
        """The mean log-probability per token, in nats."""
        return self.total / self.length


def beam_search(score: Score, steps: int, first: int, stop: int | None, beams: int) -> list[Beam]:
    """Beam search: the best texts of at most ``steps`` tokens, up to ``beams`` of them, the best first.

    Scores are divided by the length, including the end token, so that short texts have no advantage. The
    search ends when no unfinished text can overtake the worst of the finished ones that are kept.

    Args:
        score: returns log-probabilities (texts, v) of the next token, given the step, the parents of the
            unfinished texts and their last tokens (none at the first step, which has one empty text).
        first: the id of column 0.
        stop: the end token.
    """
    live, done, parents = [Beam((), 0.0, 0)], list[Beam](), list[int]()
    for step in range(steps):
        scores = score(step, parents, [beam.ids[-1] for beam in live if beam.ids])
        parents, live, ended = _extend(live, scores, first, stop, beams)
        done = _best(done + ended, beams)
        if step + 1 == steps:
            return _best(done + live, beams)  # includes truncated texts
        if not live or (len(done) == beams and _ceiling(live, steps) <= done[-1].score):
            break
    return done


def _ceiling(live: list[Beam], longest: int) -> float:
    """An upper bound on the score of unfinished texts: totals only fall, lengths are at most ``longest``."""
    return max(beam.total for beam in live) / longest


def _extend(
    live: list[Beam], scores: Scores, first: int, stop: int | None, beams: int
) -> tuple[list[int], list[Beam], list[Beam]]:
    """The best continuations: parents and beams of the unfinished texts, and the finished texts."""
    totals = (np.array([[beam.total] for beam in live]) + scores).ravel()
    count = min(2 * beams, totals.size)
    best = np.argpartition(-totals, count - 1)[:count]
    parents, live_next, ended = [], list[Beam](), list[Beam]()
    for place in best[np.argsort(-totals[best], kind="stable")].tolist():
        parent, token = divmod(place, scores.shape[1])
        old, token, total = live[parent], token + first, float(totals[place])
        if total == -np.inf or len(live_next) == beams:
            break
        if token == stop:
            ended.append(Beam(old.ids, total, old.length + 1))
        else:
            live_next.append(Beam((*old.ids, token), total, old.length + 1))
            parents.append(parent)
    return parents, live_next, ended


def _best(texts: list[Beam], beams: int) -> list[Beam]:
    return sorted(texts, key=lambda beam: -beam.score)[:beams]
