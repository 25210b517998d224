"""The static K/V cache: keys and values of all previous tokens, so that a decode step reads one token.

The released code caches hidden states instead and projects the whole history again at every token, so that
the cost of a step grows with the sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.config import TransformerConfig


class KVCache:
    """Keys and values of every layer, allocated once for ``capacity`` tokens, of which ``length`` are filled.

    ``entries``: (2, layers, batch, heads, capacity, head_dim), keys and values.
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
        """Bytes that ``allocate`` needs."""
        return 2 * config.layers * batch * length * config.hidden * dtype.itemsize

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.entries.shape[2]

    @property
    def capacity(self) -> int:
        """Maximum number of tokens of a sequence."""
        return self.entries.shape[4]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.entries.nbytes

    def update(self, layer: int, new: Tensor, rows: slice = slice(None), start: int | None = None) -> Tensor:
        """Store keys and values (2, b, heads, n, d) of the sequences ``rows`` from token ``start`` on, by
        default ``length``.

        Returns all keys and values of these sequences, (2, b, heads, start + n, d). ``length`` changes only
        with :meth:`advance`, after all layers have stored theirs.
        """
        start = self.length if start is None else start
        end = start + new.shape[3]
        if end > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not {end}")
        stored = self.entries[:, layer, rows, :, :end]
        stored[:, :, :, start:] = new
        return stored

    def advance(self, tokens: int) -> None:
        """Increase ``length`` by ``tokens`` that every layer has stored."""
        self.length += tokens

    def reset(self, length: int = 0) -> None:
        """Drop all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot go back to {length} of {self.length} tokens")
        self.length = length

    def expand(self, n: int, length: int | None = None) -> KVCache:
        """A new cache with every sequence repeated ``n`` times (b * n), for up to ``length`` tokens.

        Used to prefill a prompt once, in a cache of its own size, and generate n images from it.
        """
        rows = torch.arange(self.batch, device=self.entries.device).repeat_interleave(n)
        return self.select(rows, length)

    def select(self, rows: Tensor, length: int | None = None) -> KVCache:
        """A new cache of the sequences ``rows`` (n,), for ``length`` tokens (default: the same capacity)."""
        capacity = self.capacity if length is None else length
        if capacity < self.length:
            raise ValueError(f"{self.length} tokens do not fit into a cache for {capacity}")
        _, layers, _, heads, _, width = self.entries.shape
        entries = self.entries.new_empty(2, layers, rows.numel(), heads, capacity, width)
        entries[..., : self.length, :] = self.entries[..., : self.length, :].index_select(2, rows)
        return KVCache(entries, self.length)
