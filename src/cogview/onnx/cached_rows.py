"""The KV cache and attention masks of a batch of sequences.

Each sequence fills its row of the cache from the first slot on, so that prompts of different lengths and
Jacobi windows at different offsets are read together. The graph returns new keys and values, which are stored
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
    """A batch of sequences with their cache.

    Attributes:
        lengths: (rows,) int64, number of cached tokens of each sequence.
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
        """Read new tokens into the cache; returns their hidden states (rows, tokens, h).

        Args:
            ids, positions: (rows, tokens) int64.
            counts: (rows,), number of tokens without padding on the right (default: all).
            two_way: number of leading tokens of each row with bidirectional attention.
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
        """The mask (rows, tokens, capacity + tokens), added to the scores of cached and new tokens."""
        slots = np.arange(self.capacity)
        cached = np.where(slots < self.lengths[:, None], self.bias, HIDDEN)  # (rows, capacity)
        new = np.arange(tokens)
        visible: NDArray[np.bool_] = new <= new[:, None]
        if two_way is not None:
            visible = visible | (new < np.array(two_way)[:, None, None])
        slots = np.minimum(self.lengths[:, None] + new, self.capacity - 1)
        new_bias = np.take_along_axis(self.bias, slots, 1)[:, None]  # (rows, 1, tokens)
        mask = np.empty((len(self.lengths), tokens, self.capacity + tokens), dtype=np.float32)
        mask[:, :, : self.capacity] = cached[:, None]
        mask[:, :, self.capacity :] = np.where(visible, new_bias, HIDDEN)
        return mask

    def select(self, rows: Sequence[int]) -> Rows:
        """A copy of some sequences, which may be repeated, with a separate cache."""
        copy, index = Rows.__new__(Rows), list(rows)
        copy.session, copy.capacity = self.session, self.capacity
        copy.lengths, copy.bias = self.lengths[index], self.bias[index]
        copy.caches = {name: values[index] for name, values in self.caches.items()}
        return copy


def prefill(
    session: TransformerSession, prompts: Sequence[Prompt], steps: int, bias: float = 0.0
) -> tuple[Floats, Rows]:
    """Read prompts in one batch; returns the hidden state (prompts, h) after each, and their rows with
    capacity for ``steps`` more tokens.

    bias: added to the attention scores towards their texts.
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
