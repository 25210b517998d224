"""Windows of guesses of Jacobi decoding (``strategies/jacobi.py``): what is guessed, sampled and accepted."""

from __future__ import annotations

from collections.abc import Sequence

SMALL = 4  # rows up to which windows are faster than one token of each; see benchmarks/jacobi.py
LEAST = 8  # tokens sampled of one request
OF_TEXTS = 4  # fewer guesses are right, and what stands after the end is in vain


def window_size(rows: int, text: bool, tokens: int, most: int) -> int:
    """Tokens to sample of each request in the next forward: up to there it costs little more than one.

    Args:
        rows: that are read together, those of negative prompts among them.
        tokens: to read in one forward, all rows together; most: of one request.
    """
    return OF_TEXTS if text else min(max(tokens // rows, LEAST), most)


class Guesses:
    """One request on its way.

    number: of the request; stop: the token that ends it; tokens: known ones, guesses, and -1 where nothing
    was guessed yet; open: the steps to sample, of which the first ``at`` are known; read: true tokens that
    the cache holds.
    """

    def __init__(self, number: int, tokens: list[int], stop: int | None = None) -> None:
        self.number, self.tokens, self.stop = number, tokens, stop
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
        """The next ``size`` steps to sample; where nothing was guessed yet, the token before is repeated."""
        steps = self.open[self.at : self.at + size]
        for step in steps[:-1]:
            if self.tokens[step] < 0:
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
