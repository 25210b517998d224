"""A small world of pictures and captions whose best losses are known in closed form.

A picture is ``side`` x ``side`` codes: a shape of one hue at one of four places on a ground of another hue.
A code is a hue and a texture, and the texture of every cell is drawn at random, so that no model can do
better than log(textures) nats a code once it knows what is shown. A caption names hue, shape, ground and
place, in one of two languages with words and an order of their own. A share of all combinations is in no
training picture. What a picture shows is read back by comparing it with all combinations, cell by cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.vocabulary import Vocabulary

HUES, TEXTURES, PLACES = 8, 4, 4
SHAPES = (
    ("####", "####", "####", "####"),
    ("#..#", ".##.", ".##.", "#..#"),
    (".##.", "####", "####", ".##."),
    ("#...", "##..", "###.", "####"),
)
SIZES = (HUES, len(SHAPES), HUES, PLACES)  # of what a caption names: hue, shape, ground, place
WORDS = sum(SIZES)
ORDERS = {"en": (0, 1, 2, 3), "zh": (3, 2, 0, 1)}
HELD_OUT = 8  # one combination in eight
Combination = tuple[int, ...]


@dataclass(frozen=True)
class World:
    """The size of the data: pictures, codes a side (a multiple of 8), and the seed that draws them."""

    items: int = 8192
    side: int = 8
    seed: int = 0

    @property
    def best(self) -> float:
        """The least image loss in nats a code, of a model that knows what is shown."""
        return math.log(TEXTURES)

    @property
    def blind(self) -> float:
        """The least image loss of a model that does not know it: log of the combinations more a picture."""
        return self.best + math.log(len(combinations())) / self.side**2


def combinations() -> list[Combination]:
    """All things a picture can show: (hue, shape, ground, place), the hues different."""
    return [own for own in itertools.product(*map(range, SIZES)) if own[0] != own[2]]


def held_out(combination: Combination) -> bool:
    """Whether no training picture shows it: a fixed pattern that leaves out every value now and then."""
    return (
        sum(weight * value for weight, value in zip((1, 3, 5, 7), combination, strict=True)) % HELD_OUT == 0
    )


def hues(combination: Combination, side: int) -> NDArray[np.int64]:
    """(side, side) the hue of every cell."""
    hue, shape, ground, place = combination
    mask = np.array([[cell == "#" for cell in row] for row in SHAPES[shape]])
    mask = mask.repeat(side // 8, 0).repeat(side // 8, 1)
    found = np.full((side, side), ground)
    half = side // 2
    down, across = divmod(place, 2)
    found[down * half : (down + 1) * half, across * half : (across + 1) * half][mask] = hue
    return found


def picture(combination: Combination, side: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """(side * side,) codes of a picture that shows it."""
    return (hues(combination, side) * TEXTURES + chance.integers(0, TEXTURES, (side, side))).flatten()


def caption(combination: Combination, language: str) -> tuple[int, ...]:
    """Its caption as text pieces, four words."""
    first = np.cumsum((0, *SIZES[:-1])) + WORDS * list(ORDERS).index(language)
    return tuple(int(first[i] + combination[i]) for i in ORDERS[language])


def read(pictures: NDArray[np.int64], side: int) -> list[Combination]:
    """What pictures (n, side * side) show: of all combinations the one that most cells agree with."""
    known = combinations()
    templates = np.stack([hues(own, side).flatten() for own in known])
    shown = np.asarray(pictures) // TEXTURES
    return [known[int((templates == row).sum(1).argmax())] for row in shown]


def agreement(asked: Sequence[Combination], shown: Sequence[Combination]) -> float:
    """The share of named things that are as asked."""
    pairs = [one == two for a, b in zip(asked, shown, strict=True) for one, two in zip(a, b, strict=True)]
    return sum(pairs) / len(pairs)


def write_world(directory: Path, world: World) -> Path:
    """Write token shards (splits ``train`` and, of withheld combinations, ``val``)."""
    chance, known = np.random.default_rng(world.seed), combinations()
    chosen = [known[i] for i in chance.integers(0, len(known), world.items)]
    items = [
        TokenItem(
            str(number),
            picture(own, world.side, chance),
            tuple(TokenCaption(caption(own, language), language, "plain") for language in ORDERS),
            "world",
            "val" if held_out(own) else "train",
        )
        for number, own in enumerate(chosen)
    ]
    grid = (world.side, world.side)
    return write_shards(directory, items, grid, HUES * TEXTURES, WORDS * len(ORDERS), tuple(ORDERS), "world")


def write_shards(
    directory: Path,
    items: Sequence[TokenItem],
    grid: tuple[int, int],
    codes: int,
    pieces: int,
    languages: tuple[str, ...],
    source: str,
) -> Path:
    """Token shards of items of one source, splits ``train`` and ``val``, by no tokenizer; kept if there."""
    if (directory / INDEX).is_file():
        return directory
    layout = ShardLayout(grid, "uint8", "uint8", languages, (source,), ("train", "val"))
    index = ShardIndex(
        items=len(items),
        captions=sum(len(item.captions) for item in items),
        grid=grid,
        codes_type="uint8",
        texts_type="uint8",
        vocabulary=Vocabulary(image_codes=codes, text_pieces=pieces),
        preprocessing=Preprocessing(size=grid[0]),
        image_tokenizer="0" * 16,
        text_tokenizer="0" * 64,
        languages=languages,
        sources={source: len(items)},
        splits={name: sum(item.split == name for item in items) for name in ("train", "val")},
        shards=(write_shard(directory, "shard-00000", items, layout),),
    )
    write_atomically(directory / INDEX, index.model_dump_json())
    return directory
