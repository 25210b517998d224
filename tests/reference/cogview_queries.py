"""CogView's query language: text, control tokens, pictures and blanks in one line, and ids back to both.

The released scripts describe every task by such a line, ``[ROI1] a cat [BASE] [BOI1] [MASK]*1024``. Parts
stand between single spaces: a control token's name; ``[MASK]`` or ``[MASK]*N``, tokens to be generated;
``[Image]path`` or ``[Image*N]path``, a picture of which all or the first N codes are given; anything else is
text. No file is read here: pictures come out as :class:`ImageSlot`, for the caller to fill.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary

BLANK = -1  # a token to be generated
IMAGE_CODES = 1024
MAX_BLANKS = 1 << 16
SIZES = {8: "[TINY]", 16: "[SMALL]", 32: "[BASE]", 64: "[BIG]"}

_BLANKS = re.compile(r"\[MASK\](?:\*(\d{1,9}))?", re.ASCII)
_IMAGE = re.compile(r"\[Image(?:\*(\d{1,9}))?\](.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class ImageSlot:
    """Where a picture belongs: its path, and how many of its codes are given (None: all)."""

    path: str
    given: int | None = None


Part = int | ImageSlot


def parse_query(query: str, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> list[Part]:
    """A query as ids of the whole vocabulary, blanks (-1) and pictures.

    Args:
        query: one line of the query language.
        encode: text to piece ids, such as ``TextTokenizer.encode``. Words that stand together are encoded
            together, joined by a space.

    Raises CogViewError for more than 65,536 blanks.
    """

    def is_text(part: str) -> bool:
        return part not in vocabulary.controls and not _BLANKS.fullmatch(part) and not _IMAGE.fullmatch(part)

    parts: list[Part] = []
    for text, group in itertools.groupby(query.split(" "), is_text):
        if text:
            parts += [vocabulary.piece(piece) for piece in encode(" ".join(group))]
        else:
            parts += itertools.chain.from_iterable(_special(part, vocabulary) for part in group)
    return parts


def _special(part: str, vocabulary: Vocabulary) -> list[Part]:
    """The tokens of one part that is not text."""
    if blanks := _BLANKS.fullmatch(part):
        count = int(blanks[1] or 1)
        if count > MAX_BLANKS:
            raise CogViewError(f"{part}: at most {MAX_BLANKS} tokens can be asked for")
        return [BLANK] * count
    if image := _IMAGE.fullmatch(part):
        return [ImageSlot(image[2], int(image[1]) if image[1] else None)]
    return [vocabulary.control(part)]


def fill(
    parts: Iterable[Part], encode_image: Callable[[str], Sequence[int]], codes: int = IMAGE_CODES
) -> list[int]:
    """A parsed query with its pictures in place: the codes that are given, blanks for the rest.

    Args:
        encode_image: a picture's path to its codes.
        codes: how many a picture must have.

    Raises CogViewError where a picture has another number of codes.
    """
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        picture = list(encode_image(part.path))
        if len(picture) != codes:
            raise CogViewError(f"{part.path}: {len(picture)} codes, the query takes {codes}")
        given = codes if part.given is None else min(part.given, codes)
        ids += picture[:given] + [BLANK] * (codes - given)
    return ids


def wrap_codes(codes: Sequence[int], vocabulary: Vocabulary, index: int = 1) -> list[int]:
    """[size] [BOIi] codes [EOIi] of a square picture; the size token tells 8, 16, 32 or 64 codes a side.

    Raises CogViewError for another number of codes.
    """
    side = math.isqrt(len(codes))
    if side * side != len(codes) or side not in SIZES:
        raise CogViewError(f"{len(codes)} codes are no picture of 8, 16, 32 or 64 codes a side")
    start, begin, end = map(vocabulary.control, (SIZES[side], f"[BOI{index}]", f"[EOI{index}]"))
    return [start, begin, *codes, end]


@dataclass(frozen=True)
class Decoded:
    """What ids say: texts and names of control tokens in their order, and the codes of each picture."""

    texts: list[str]
    images: list[list[int]]


def decode_ids(ids: Iterable[int], vocabulary: Vocabulary, decode: Callable[[list[int]], str]) -> Decoded:
    """Ids of the whole vocabulary back to texts and pictures; a picture ends at an [EOI] or with the ids.

    Raises CogViewError for an id that means nothing: a blank, padding, one outside the vocabulary.
    """
    texts: list[str] = []
    images: list[list[int]] = [[]]
    for kind, group in itertools.groupby(ids, vocabulary.kind):
        if kind == "image":
            images[-1] += group
        elif kind == "text":
            texts.append(decode([token - vocabulary.texts.start for token in group]))
        else:
            names = [vocabulary.name(token) for token in group]
            texts += names
            images += [[] for name in names if name.startswith("[EOI")]
    return Decoded(texts, [image for image in images if image])
