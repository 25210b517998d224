"""Sequences that a transformer reads: their cache of keys and values, and who sees whom.

Each sequence fills its own part of the cache from the first slot on, so that prompts of several lengths and
Jacobi windows at different places are read together. The graph gives new keys and values out; they are stored
here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cogview.onnx.draws import Floats
from cogview.onnx.sessions import TransformerSession
from cogview.sequences.protocols import Prompt
from cogview.types import Ids

HIDDEN = np.float32(-np.inf)


class Rows:
    """Some sequences of one transformer.

    Attributes:
        lengths: (rows,) int64, the tokens that are read of each.
        bias: (rows, capacity), added to the attention scores towards each token.
    """

    def __init__(self, session: TransformerSession, rows: int, capacity: int) -> None:
        files = session.files
        self.session, self.capacity = session, capacity
        self.lengths = np.zeros(rows, dtype=np.int64)
        self.bias = np.zeros((rows, capacity), dtype=np.float32)
        heads, width = files.attention_heads, files.head_dim
        shapes = {"keys": (rows, heads, width, capacity), "values": (rows, heads, capacity, width)}
        self.caches = {
            name: np.zeros(shapes[name.partition(".")[0]], dtype=np.float32) for name in session.caches
        }

    def read(
        self, ids: Ids, positions: Ids, counts: Ids | None = None, two_way: Sequence[int] | None = None
    ) -> Floats:
        """The hidden states (rows, tokens, h) of new tokens, which are added to the cache.

        Args:
            ids, positions: (rows, tokens) int64.
            counts: (rows,), how many of them are real (default: all); what stands behind them is not read.
            two_way: first tokens of each row that see each other both ways.
        """
        rows, tokens = ids.shape
        counts = np.full(rows, tokens) if counts is None else counts
        feed = {
            "ids": ids.astype(np.int32),
            "positions": positions.astype(np.int32),
            "mask": self._mask(tokens, two_way),
            **self.caches,
        }
        hidden, new = self.session.run(feed)
        for name, values in new.items():
            cache, keys = self.caches[name], name.startswith("keys")
            for row, (start, count) in enumerate(zip(self.lengths.tolist(), counts.tolist(), strict=True)):
                if keys:
                    cache[row, :, :, start : start + count] = values[row, :, :, :count]
                else:
                    cache[row, :, start : start + count] = values[row, :, :count]
        self.lengths += counts
        return hidden

    def _mask(self, tokens: int, two_way: Sequence[int] | None) -> Floats:
        """(rows, tokens, capacity + tokens): what is added to the scores of held and new tokens."""
        slots = np.arange(self.capacity)
        held = np.where(slots < self.lengths[:, None], self.bias, HIDDEN)  # (rows, capacity)
        new = np.arange(tokens)
        seen: NDArray[np.bool_] = new <= new[:, None]
        if two_way is not None:
            seen = seen | (new < np.array(two_way)[:, None, None])
        places = np.minimum(self.lengths[:, None] + new, self.capacity - 1)
        own = np.take_along_axis(self.bias, places, 1)[:, None]  # (rows, 1, tokens)
        mask = np.empty((len(self.lengths), tokens, self.capacity + tokens), dtype=np.float32)
        mask[:, :, : self.capacity] = held[:, None]
        mask[:, :, self.capacity :] = np.where(seen, own, HIDDEN)
        return mask

    def select(self, rows: Sequence[int]) -> Rows:
        """Some of the sequences, each as often as it is named, in a cache of their own."""
        found, chosen = Rows.__new__(Rows), list(rows)
        found.session, found.capacity = self.session, self.capacity
        found.lengths, found.bias = self.lengths[chosen], self.bias[chosen]
        found.caches = {name: values[chosen] for name, values in self.caches.items()}
        return found


def prefill(
    session: TransformerSession, prompts: Sequence[Prompt], steps: int, bias: float = 0.0
) -> tuple[Floats, Rows]:
    """Read prompts together: the state (prompts, h) after each, and their rows with room for ``steps`` more.

    bias: added to the attention towards their texts.
    """
    counts = np.array([len(one.ids) for one in prompts])
    longest = int(counts.max())
    rows = Rows(session, len(prompts), longest + steps)
    ids, positions = (np.zeros((len(prompts), longest), dtype=np.int64) for _ in range(2))
    for row, one in enumerate(prompts):
        ids[row, : len(one.ids)], positions[row, : len(one.ids)] = one.ids, one.positions
        rows.bias[row, : one.text_length] = bias
    hidden = rows.read(ids, positions, counts, [one.prefix for one in prompts])
    return hidden[np.arange(len(prompts)), counts - 1], rows
