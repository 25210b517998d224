"""Converts the original CogView's tokenised data to token shards (`cogview data convert`).

Such files hold codes and text ids; the vocabulary and the tokenizers' fingerprints come from an imported
family. Flat int32 files and both kinds of LMDB are recognised by their content
(:mod:`~cogview.data.released` reads them safely).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogview.checkpoints.bundle import ModelBundle
from cogview.data.released import CompactBinary, ReleasedPair, TextCodeLmdb, TokenLmdb
from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardEntry,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    TokenShards,
    smallest_type,
    write_atomically,
    write_shard,
)
from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary

SHARD_ITEMS = 4096
LONGEST = 8192  # largest number of characters or ids of a text


@dataclass(frozen=True)
class Conversion:
    """The meaning of the ids in the files.

    fingerprints: of image and text tokenizer; factor: pixels per code and side; encode: text to tokens, for
    LMDBs with raw texts; language: of all captions.
    """

    vocabulary: Vocabulary
    fingerprints: tuple[str, str]
    factor: int | Fraction = 8
    encode: Callable[[str], list[int]] | None = None
    language: str = "zh"

    @classmethod
    def of(cls, family: ModelBundle) -> Conversion:
        """The conversion for files that were made with an imported family's tokenizers."""
        prints, images = family.config.fingerprints, family.image_tokenizer()
        return cls(
            family.config.vocabulary,
            (prints.image_tokenizer, prints.text_tokenizer),
            images.config.factor,
            family.text_tokenizer().encode,
        )


def open_released(path: Path, vocabulary: Vocabulary) -> Sequence[ReleasedPair]:
    """The pairs in a flat file or an LMDB of either kind; raises CogViewError for anything else."""
    if path.is_file() and path.suffix != ".mdb" and not path.name.endswith("lmdb"):
        return CompactBinary(path)  # type: ignore[return-value]
    pairs = TextCodeLmdb(path)
    try:
        pairs[0] if len(pairs) else None
    except CogViewError:
        return _Sequences(TokenLmdb(path), vocabulary)  # type: ignore[return-value]
    return pairs  # type: ignore[return-value]


class _Sequences:
    """Splits sequences [ROI1] text [size] [BOI1] codes [EOI1] into pairs."""

    def __init__(self, data: TokenLmdb, vocabulary: Vocabulary) -> None:
        self.data, self.vocabulary = data, vocabulary

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> ReleasedPair:
        ids, control = self.data[index], self.vocabulary.control
        begin = np.flatnonzero(ids == control("[BOI1]"))
        if len(begin) != 1 or ids[0] != control("[ROI1]"):
            raise CogViewError(f"{self.data.path}, key {index}: not a sequence of one text and one image")
        end = np.flatnonzero(ids == control("[EOI1]"))
        last = int(end[0]) if len(end) else len(ids)
        return ReleasedPair(ids[1 : int(begin[0]) - 1], ids[int(begin[0]) + 1 : last])


def convert(
    path: str | Path,
    out: str | Path,
    meaning: Conversion,
    validation: float = 0.02,
    progress: Callable[[int, int], None] | None = None,
) -> TokenShards:
    """Write the pairs in ``path`` as token shards to ``out``, a new directory; returns the opened shards.

    Raises CogViewError if an id is outside the vocabulary or images differ in size.
    """
    path, out = Path(path), Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise CogViewError(f"{out} is not empty; give a new directory")
    pairs = open_released(path, meaning.vocabulary)
    if not len(pairs):
        raise CogViewError(f"{path} holds no pairs")
    side = math.isqrt(len(pairs[0].codes))
    if not side:
        raise CogViewError(f"{path}, row 1: no image codes")
    layout = ShardLayout(
        grid=(side, side),
        codes_type=smallest_type(meaning.vocabulary.image_codes),
        texts_type=smallest_type(meaning.vocabulary.text_pieces),
        languages=(meaning.language,),
        sources=(path.stem,),
        splits=("train", "val"),
    )
    items, counts = _items(path, pairs, meaning, side, validation), [0, 0]
    entries: list[ShardEntry] = []
    while batch := list(itertools.islice(items, SHARD_ITEMS)):
        entries.append(write_shard(out, f"shard-{len(entries):05d}", batch, layout))
        for item in batch:
            counts[item.split == "val"] += 1
        if progress:
            progress(sum(counts), len(pairs))
    index = ShardIndex(
        items=sum(counts),
        captions=sum(counts),
        grid=layout.grid,
        codes_type=layout.codes_type,
        texts_type=layout.texts_type,
        vocabulary=meaning.vocabulary,
        preprocessing=Preprocessing(size=int(side * meaning.factor)),
        image_tokenizer=meaning.fingerprints[0],
        text_tokenizer=meaning.fingerprints[1],
        languages=layout.languages,
        sources={path.stem: sum(counts)},
        splits=dict(zip(layout.splits, counts, strict=True)),
        shards=tuple(entries),
    )
    write_atomically(out / INDEX, index.model_dump_json(indent=1) + "\n")
    return TokenShards(out)


def _items(
    path: Path, pairs: Sequence[ReleasedPair], meaning: Conversion, side: int, validation: float
) -> Iterator[TokenItem]:
    for number in range(len(pairs)):
        pair, place = pairs[number], f"{path}, row {number + 1}"
        if len(pair.codes) != side * side:
            raise CogViewError(f"{place}: {len(pair.codes)} codes, the first row has {side} x {side}")
        _check(pair.codes, meaning.vocabulary.image_codes, f"{place}: an image code")
        caption = TokenCaption(tuple(_text_tokens(pair.text, meaning, place)), meaning.language, "plain")
        key = f"{path.stem}/{number}"
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
        split = "val" if share < validation else "train"
        yield TokenItem(key, pair.codes, (caption,), path.stem, split)


def _text_tokens(text: NDArray[np.int64] | str, meaning: Conversion, place: str) -> list[int]:
    """Text tokens of a raw text, or of ids of the full vocabulary."""
    if isinstance(text, str):
        if meaning.encode is None:
            raise CogViewError(f"{place}: the text is not tokenised; name its family with --tokenizers")
        if len(text) > LONGEST:
            raise CogViewError(f"{place}: a text of {len(text):,} characters; at most {LONGEST:,} are read")
        return meaning.encode(text)
    if len(text) > LONGEST:
        raise CogViewError(f"{place}: a text of {len(text):,} ids; at most {LONGEST:,} are read")
    array = text - meaning.vocabulary.texts.start
    _check(array, meaning.vocabulary.text_pieces, f"{place}: a text id")
    tokens: list[int] = array.tolist()
    return tokens


def _check(values: NDArray[np.int64], limit: int, what: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise CogViewError(f"{what} is outside the vocabulary's {limit:,}; the data are of another model")
