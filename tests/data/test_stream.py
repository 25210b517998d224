"""Streams of items: every item once an epoch, whatever the stops and the ranks."""

from itertools import islice, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.data.shards import TokenShards
from cogview.data.stream import ItemStream
from cogview.data.weighting import State


def test_an_epoch_is_every_item_once_shard_by_shard(shards: TokenShards) -> None:
    stream = ItemStream(shards, splits=None, epochs=1, seed=5)
    keys = [item.key for item, _ in stream]
    assert sorted(keys) == sorted(shards.keys) and keys != shards.keys
    owners = np.repeat(np.arange(len(shards.index.shards)), [e.items for e in shards.index.shards])
    seen = [int(owners[number]) for number in stream.order(0)]
    assert len([a for a, b in pairwise(seen) if a != b]) == len(shards.index.shards) - 1
    assert [item.key for item, _ in ItemStream(shards, splits=None, shuffle=False, epochs=1)] == shards.keys
    assert list(stream.order(0)) != list(stream.order(1))


@settings(max_examples=30, deadline=None)
@given(
    worlds=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    stops=st.lists(st.integers(1, 25), min_size=4, max_size=4),
    seed=st.integers(0, 9),
)
def test_no_item_is_lost_or_repeated_when_the_number_of_ranks_changes(
    shards: TokenShards, worlds: list[int], stops: list[int], seed: int
) -> None:
    """Ranks in lockstep for some rounds, then another number of them from rank 0's state."""
    found: list[str] = []
    state: State | None = None
    for world, rounds in zip(worlds, stops, strict=False):
        ranks = [iter(ItemStream(shards, seed=seed, rank=r, world=world, state=state)) for r in range(world)]
        for _ in range(rounds):
            before = (state or {"epoch": 0, "batch": 0})["epoch"], (state or {"batch": 0})["batch"]
            left = len(shards.select(("train",))) - before[1]
            for rank, stream in enumerate(ranks):
                if rank < left:
                    item, after = next(stream)
                    found.append(item.key)
                    state = after if rank == 0 else state
    whole = [item.key for item, _ in islice(ItemStream(shards, seed=seed), len(found))]
    assert found == whole


def test_a_stream_has_what_random_access_has(shards: TokenShards) -> None:
    item, _ = next(iter(ItemStream(shards, sources=["b"])))
    number = shards.keys.index(item.key)
    np.testing.assert_array_equal(item.codes, shards.codes([number])[0])
    assert item.captions == shards.captions(number) and item.source == "b"
