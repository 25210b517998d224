"""Small data sets for the tests of this folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    TokenShards,
    smallest_type,
    write_atomically,
    write_shard,
)
from cogview.vocabulary import Vocabulary

GRID = (2, 3)
CODES, PIECES = 300, 70_000
MakeShards = Callable[[Sequence[TokenItem]], TokenShards]


def make_items(count: int, seed: int = 0) -> list[TokenItem]:
    """Items with 1 to 6 captions of 0 to 20 pieces in two languages and three kinds, from two sources."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        captions = tuple(
            TokenCaption(
                tuple(rng.integers(0, PIECES, rng.integers(0, 21)).tolist()),
                str(rng.choice(["en", "zh"])),
                rng.choice(["plain", "styled", "keyword"]).item(),
            )
            for _ in range(rng.integers(1, 7))
        )
        codes = rng.integers(0, CODES, GRID[0] * GRID[1])
        split = "val" if number % 10 == 9 else "train"
        items.append(TokenItem(f"item/{number}", codes, captions, ("a", "b")[number % 3 == 0], split))
    return items


def write_data_set(directory: Path, items: Sequence[TokenItem], shard_items: int = 7) -> TokenShards:
    """Write items as a data set of several shards and open it."""
    names = {
        "languages": tuple(dict.fromkeys(caption.language for item in items for caption in item.captions)),
        "sources": tuple(dict.fromkeys(item.source for item in items)),
        "splits": tuple(dict.fromkeys(item.split for item in items)),
    }
    layout = ShardLayout(
        grid=GRID, codes_type=smallest_type(CODES), texts_type=smallest_type(PIECES), **names
    )
    entries = tuple(
        write_shard(directory, f"shard-{first:05d}", items[first : first + shard_items], layout)
        for first in range(0, len(items), shard_items)
    )
    index = ShardIndex(
        items=len(items),
        captions=sum(len(item.captions) for item in items),
        grid=GRID,
        codes_type=layout.codes_type,
        texts_type=layout.texts_type,
        vocabulary=Vocabulary(image_codes=CODES, text_pieces=PIECES),
        preprocessing=Preprocessing(size=12),
        image_tokenizer="1" * 16,
        text_tokenizer="2" * 64,
        languages=layout.languages,
        sources={name: sum(item.source == name for item in items) for name in layout.sources},
        splits={name: sum(item.split == name for item in items) for name in layout.splits},
        shards=entries,
    )
    write_atomically(directory / INDEX, index.model_dump_json())
    return TokenShards(directory)


@pytest.fixture(scope="session")
def items() -> list[TokenItem]:
    return make_items(103)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, items: list[TokenItem]) -> TokenShards:
    return write_data_set(tmp_path_factory.mktemp("shards"), items)
