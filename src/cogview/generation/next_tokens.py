"""Guesses for the next token of a text: the token that most often followed the two before in training.

A sampled caption is decoded in windows of guesses (``strategies.py``), which affect the number of forwards,
never the result. Repeating the last token, the guess for image codes, is hardly ever right in a text. A table
of n-grams is the cheapest draft model for speculative decoding (Fu et al., *Lookahead Decoding*, arXiv
2402.02057, collect one from the model's output). It is written at the end of the training of a caption model
and stored beside its weights.
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
START, ANY = -1, -2  # before the first token; any token
MOST = 1 << 15  # contexts that are kept, 400 kB
LEAST = 2  # minimum count of a continuation
Context = tuple[int, int]


class NextTokens:
    """A table from the two preceding tokens, or only the last one (after ``ANY``), to the next token."""

    def __init__(self, table: Mapping[Context, int]) -> None:
        self.table = table

    @classmethod
    def learn(cls, texts: Iterable[Sequence[int]], most: int = MOST) -> Self:
        """Count continuations and keep the most common one of each of the ``most`` most common contexts.

        Texts include their end token. Ties go to the smallest token, so that the order of the texts does not
        matter.
        """
        seen: dict[Context, Counter[int]] = defaultdict(Counter)
        for text in texts:
            padded = (START, START, *text)
            for before, last, token in zip(padded, padded[1:], padded[2:], strict=False):
                seen[before, last][token] += 1
                seen[ANY, last][token] += 1
        best = {
            context: min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
            for context, counts in seen.items()
        }
        common = sorted(
            (-count, context, token) for context, (token, count) in best.items() if count >= LEAST
        )
        return cls({context: token for _, context, token in common[:most]})

    def after(self, tokens: Sequence[int]) -> int | None:
        """The guess for the token after ``tokens``; None for an unknown context."""
        before, last = (START, START, *tokens[-2:])[-2:]
        return self.table.get((before, last), self.table.get((ANY, last)))

    def save(self, path: Path) -> None:
        """Write the table, as contexts (n, 2) and tokens (n,) int32."""
        contexts = np.array([*self.table], dtype=np.int32).reshape(-1, 2)
        tokens = np.array([*self.table.values()], dtype=np.int32)
        save_file({"contexts": torch.from_numpy(contexts), "tokens": torch.from_numpy(tokens)}, path)

    @classmethod
    def read(cls, path: Path, tokens: int) -> Self | None:
        """Read a table, None if there is no file; raises CogViewError if its tokens do not fit the model."""
        if not path.is_file():
            return None
        tensors = load_tensors(path)
        contexts, following = tensors.get("contexts"), tensors.get("tokens")
        if (
            contexts is None
            or following is None
            or contexts.shape != (len(following), 2)
            or {contexts.dtype, following.dtype} != {torch.int32}
            or not ((contexts >= ANY) & (contexts < tokens)).all()
            or not ((following >= 0) & (following < tokens)).all()
        ):
            raise CogViewError(f"{path}: not a table of next tokens of this model; delete or restore it")
        pairs = [(before, last) for before, last in contexts.tolist()]
        return cls(dict(zip(pairs, following.tolist(), strict=True)))
