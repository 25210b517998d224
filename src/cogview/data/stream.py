"""Streams single items from token shards, shard by shard.

:class:`~cogview.data.shards.TokenShards` provides random access and
:class:`~cogview.data.loader.TokenLoader` training batches. A stream reads one shard after another, so that
pages are read from disk once; in each epoch the shards, and the items within each shard, are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview.data.shards import TokenItem, TokenShards
from cogview.data.weighting import State, generator, plan_hash, plan_text, read_state


class ItemStream:
    """Items with the state after each, endless or for ``epochs``; without ``shuffle`` in stored order.

    ``rank`` of ``world`` takes every ``world``-th item. States count the items of all ranks, so that a stream
    resumes from rank 0's state on any number of ranks.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        seed: int = 0,
        shuffle: bool = True,
        splits: Sequence[str] | None = ("train",),
        sources: Sequence[str] | None = None,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.shards, self.seed, self.shuffle, self.epochs = shards, seed, shuffle, epochs
        self.rank, self.world = rank, world
        self.items = shards.select(splits, sources)
        settings = plan_text(seed, shuffle, splits, sources)
        self._state = read_state(state, plan_hash(shards.index.fingerprint, "stream", settings))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of an epoch's items, in order."""
        if not self.shuffle:
            return self.items
        ends = np.cumsum([entry.items for entry in self.shards.index.shards])[:-1]
        parts = np.split(self.items, np.searchsorted(self.items, ends))
        rng = generator(self.seed, epoch, "stream")
        return np.concatenate([rng.permutation(parts[number]) for number in rng.permutation(len(parts))])

    def __iter__(self) -> Iterator[tuple[TokenItem, State]]:
        while len(self.items) and (self.epochs is None or self._state.epoch < self.epochs):
            order = self.order(self._state.epoch)
            for first in range(self._state.batch, len(order), self.world):
                last = first + self.world >= len(order)
                update = {"epoch": self._state.epoch + last, "batch": 0 if last else first + self.world}
                self._state = self._state.model_copy(update=update)
                if first + self.rank < len(order):
                    yield self.shards[int(order[first + self.rank])], self._state.model_dump()
