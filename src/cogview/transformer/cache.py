"""The K/V cache: keys and values of what was read, kept in place, so that a step reads one token.

The released code keeps hidden states instead and projects the whole history again at every token; its step
grows with the image, this one does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.config import TransformerConfig


class KVCache:
    """Keys and values of every layer, allocated once for ``capacity`` tokens; ``length`` are filled.

    ``entries`` are (2, layers, batch, heads, capacity, head_dim), keys and values.
    """

    def __init__(self, entries: Tensor, length: int = 0) -> None:
        assert entries.dim() == 6 and len(entries) == 2
        self.entries, self.length = entries, length

    @classmethod
    def allocate(
        cls,
        config: TransformerConfig,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> KVCache:
        """An empty cache for ``batch`` sequences of up to ``length`` tokens."""
        shape = (2, config.layers, batch, config.heads, length, config.head_dim)
        return cls(torch.empty(shape, dtype=dtype, device=device))

    @staticmethod
    def size_in_bytes(
        config: TransformerConfig, batch: int, length: int, dtype: torch.dtype = torch.float32
    ) -> int:
        """Bytes that ``allocate`` takes."""
        return 2 * config.layers * batch * length * config.hidden * dtype.itemsize

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.entries.shape[2]

    @property
    def capacity(self) -> int:
        """Tokens a sequence may have."""
        return self.entries.shape[4]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.entries.nbytes

    def update(self, layer: int, new: Tensor, rows: slice = slice(None), start: int | None = None) -> Tensor:
        """Store keys and values (2, b, heads, n, d) of some sequences from token ``start`` on (default: after
        what is filled).

        Returns what these sequences hold up to there, (2, b, heads, start + n, d). ``length`` grows only with
        :meth:`advance`, once all layers have stored theirs.
        """
        start = self.length if start is None else start
        end = start + new.shape[3]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {end} were given")
        held = self.entries[:, layer, rows, :, :end]
        held[:, :, :, start:] = new
        return held

    def advance(self, tokens: int) -> None:
        """Count ``tokens`` that every layer has stored."""
        self.length += tokens

    def reset(self, length: int = 0) -> None:
        """Forget what stands after the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot go back to {length} of {self.length} tokens")
        self.length = length

    def expand(self, n: int, length: int | None = None) -> KVCache:
        """A new cache with every sequence ``n`` times in a row (b * n), for up to ``length`` tokens.

        So a prompt is read once, in a cache of its own size, and n images are drawn from it.
        """
        rows = torch.arange(self.batch, device=self.entries.device).repeat_interleave(n)
        return self.select(rows, length)

    def select(self, rows: Tensor, length: int | None = None) -> KVCache:
        """A new cache of the sequences ``rows`` (n,), for up to ``length`` tokens (as many, if None)."""
        capacity = self.capacity if length is None else length
        if capacity < self.length:
            raise ValueError(f"{self.length} tokens do not fit into a cache for {capacity}")
        _, layers, _, heads, _, width = self.entries.shape
        entries = self.entries.new_empty(2, layers, rows.numel(), heads, capacity, width)
        entries[..., : self.length, :] = self.entries[..., : self.length, :].index_select(2, rows)
        return KVCache(entries, self.length)
