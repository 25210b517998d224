"""Optional filters of a data set: words in captions, uniform borders, near-duplicates.

CogView2 dropped images whose captions contain words such as "abstract" and "texture" (section 5.1); CogView's
authors regret watermarks and white borders (appendix A); images from the web occur many times, recompressed
or resized. All filters are off by default, and the images that each one drops are counted under a separate
reason (:mod:`~cogview.data.tally`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator

from cogview.config import Config, option
from cogview.data.samples import Caption
from cogview.errors import CogViewError

BITS = 64  # of a difference hash
EVEN = 16  # largest range of values in a line of a border, out of 255
SEEN = 256  # pixels of the longer side of the thumbnail in which borders are detected


def read_words(value: Any) -> Any:
    """Expand a list of words, in which @FILE stands for the words of a file, one per line."""
    if not isinstance(value, list | tuple):
        return value
    words: list[str] = []
    for word in value:
        if not word.startswith("@"):
            words.append(word.strip())
            continue
        try:
            lines = Path(word[1:]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CogViewError(
                f"--exclude: {word[1:]} cannot be read; give a text file with one word per line"
            ) from error
        words += [line.strip() for line in lines if line.strip()]
    return tuple(dict.fromkeys(word.casefold() for word in words if word))


class Filters(Config):
    """Optional filters; by default nothing is dropped."""

    exclude: Annotated[tuple[str, ...], BeforeValidator(read_words)] = option(
        (),
        "Drop images with this word in a caption; @FILE: with any of its words, one per line.",
        metavar="WORD",
        repeated=True,
    )
    max_border: float | None = option(
        None,
        "Drop images with a uniform border over more than this share of height or width.",
        shown="any",
        ge=0,
        le=1,
    )
    near_duplicates: int | None = option(
        None,
        "Drop images whose difference hash differs from an earlier one's in at most this many of 64 "
        "bits; try 4.",
        shown="keep all",
        ge=0,
        le=16,
    )

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """ASCII words match as whole words, others as substrings."""
        parts = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in self.exclude]
        return re.compile("|".join(parts)) if parts else None

    def excluded(self, captions: Iterable[Caption]) -> str | None:
        """The first excluded word in an image's captions; None if there is none."""
        for caption in captions if self._pattern else ():
            assert self._pattern is not None
            if found := self._pattern.search(caption.text.casefold()):
                return found.group()
        return None


def border(image: Image.Image) -> float:
    """The share of an image's height or width, whichever is larger, that is a uniform border, from 0 to 1.

    A border consists of lines of pixels, from the edges inwards, in which no channel varies by more than
    ``EVEN``. An image of one colour has share 1.
    """
    small = image.copy()
    small.thumbnail((SEEN, SEEN), Image.Resampling.BOX)
    pixels = np.asarray(small.convert("RGB"), dtype=np.int16)
    return max(_even(pixels), _even(pixels.transpose(1, 0, 2)))


def _even(pixels: NDArray[np.int16]) -> float:
    """The share of uniform rows at both ends."""
    uneven = np.flatnonzero((np.ptp(pixels, axis=1) > EVEN).any(-1))
    return 1.0 if not len(uneven) else 1 - (int(uneven[-1]) - int(uneven[0]) + 1) / len(pixels)


def difference_hash(image: Image.Image) -> int:
    """The difference hash (dHash): 64 bits, whether each pixel of an 8 x 8 grey thumbnail is darker than its
    right neighbour."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")


class Lookalikes:
    """An exact index of image hashes that finds one within ``distance`` bits.

    Hashes that differ in at most d bits agree in one of d + 1 parts (pigeonhole principle), so only those
    with a common part are compared.
    """

    def __init__(self, distance: int) -> None:
        self.distance = distance
        edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
        self._cuts = [(low, (1 << high - low) - 1) for low, high in pairwise(edges)]
        self._known: dict[tuple[int, int], list[int]] = {}

    def meets(self, value: int) -> bool:
        """Whether an earlier hash is within the distance; otherwise this one is added."""
        parts = [(number, value >> low & mask) for number, (low, mask) in enumerate(self._cuts)]
        for part in parts:
            if any((value ^ other).bit_count() <= self.distance for other in self._known.get(part, ())):
                return True
        for part in parts:
            self._known.setdefault(part, []).append(value)
        return False
