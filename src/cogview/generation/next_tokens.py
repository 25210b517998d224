"""Guesses for the next token of a text: what most often followed the two tokens before, in training.

A sampled caption is decoded in windows of guesses (``strategies.py``), which decide the number of forwards,
never the result. A repeated token, the guess for image codes, is hardly ever right in a text. Such a table of
n-grams is the cheapest draft of speculative decoding (Fu et al., *Lookahead Decoding*, arXiv 2402.02057, have
one of the model's own text); it lies beside a caption model's weights, written when that was trained.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import save_file

from cogview.errors import CogViewError
from cogview.tensors import load_tensors

FILE = "next_tokens.safetensors"
START, ANY = -1, -2  # before the first token; whatever token
MOST = 1 << 15  # contexts that are kept, 400 kB
LEAST = 2  # times that a continuation was seen
Context = tuple[int, int]


class NextTokens:
    """A table from the two tokens before, or the one (``ANY`` stands for the other), to the next."""

    def __init__(self, table: Mapping[Context, int]) -> None:
        self.table = table

    @classmethod
    def learn(cls, texts: Iterable[Sequence[int]], most: int = MOST) -> Self:
        """The commonest continuations, with the ``most`` commonest contexts; texts end with their end token.

        Of equally common ones the smallest, so that the order of the texts does not matter.
        """
        seen: dict[Context, Counter[int]] = defaultdict(Counter)
        for text in texts:
            padded = (START, START, *text)
            for before, last, token in zip(padded, padded[1:], padded[2:], strict=False):
                seen[before, last][token] += 1
                seen[ANY, last][token] += 1
        best = {
            context: min(found.items(), key=lambda pair: (-pair[1], pair[0]))
            for context, found in seen.items()
        }
        common = sorted(
            (-count, context, token) for context, (token, count) in best.items() if count >= LEAST
        )
        return cls({context: token for _, context, token in common[:most]})

    def after(self, tokens: Sequence[int]) -> int | None:
        """The token to guess after ``tokens``; None where nothing like their end was seen."""
        before, last = (START, START, *tokens[-2:])[-2:]
        return self.table.get((before, last), self.table.get((ANY, last)))

    def save(self, path: Path) -> None:
        """Write the table, as contexts (n, 2) and tokens (n,) int32."""
        contexts = np.array([*self.table], dtype=np.int32).reshape(-1, 2)
        tokens = np.array([*self.table.values()], dtype=np.int32)
        save_file({"contexts": torch.from_numpy(contexts), "tokens": torch.from_numpy(tokens)}, path)

    @classmethod
    def read(cls, path: Path, tokens: int) -> Self | None:
        """The table in a file, None where there is none; CogViewError for one of other tokens."""
        if not path.is_file():
            return None
        found = load_tensors(path)
        contexts, following = found.get("contexts"), found.get("tokens")
        if (
            contexts is None
            or following is None
            or contexts.shape != (len(following), 2)
            or {contexts.dtype, following.dtype} != {torch.int32}
            or not ((contexts >= ANY) & (contexts < tokens)).all()
            or not ((following >= 0) & (following < tokens)).all()
        ):
            raise CogViewError(f"{path}: not a table of next tokens of this model; remove it or restore it")
        pairs = [(before, last) for before, last in contexts.tolist()]
        return cls(dict(zip(pairs, following.tolist(), strict=True)))
