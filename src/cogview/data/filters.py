"""What is left out of a data set by choice: words in captions, even borders, images that are there already.

The papers name three such faults. CogView2 left out images whose captions have words such as "abstract" and
"texture" (section 5.1); CogView's authors regret watermarks and white edges (appendix A); images from the
web come many times over, recompressed or resized. Every filter is off until it is asked for, and what it
takes out is counted under a reason of its own (:mod:`~cogview.data.tally`).
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
EVEN = 16  # the most that values of a border's line differ, of 255
SEEN = 256  # pixels of the longer side that borders are looked for in


def read_words(given: Any) -> Any:
    """Words, of which one that begins with @ names a file of words, one a line; anything else as it is."""
    if not isinstance(given, list | tuple):
        return given
    found: list[str] = []
    for word in given:
        if not word.startswith("@"):
            found.append(word.strip())
            continue
        try:
            lines = Path(word[1:]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CogViewError(
                f"--exclude: {word[1:]} cannot be read; give a text file, a word a line"
            ) from error
        found += [line.strip() for line in lines if line.strip()]
    return tuple(dict.fromkeys(word.casefold() for word in found if word))


class Filters(Config):
    """What is left out by choice; by default nothing."""

    exclude: Annotated[tuple[str, ...], BeforeValidator(read_words)] = option(
        (),
        "Leave out images with this word in a caption; @FILE: with any of its words, one a line.",
        metavar="WORD",
        repeated=True,
    )
    max_border: float | None = option(
        None,
        "Leave out images with a plain border over more than this share of height or width.",
        shown="any",
        ge=0,
        le=1,
    )
    near_duplicates: int | None = option(
        None,
        "Leave out images whose difference hash differs from an earlier one's in at most this many of 64 "
        "bits; try 4.",
        shown="keep all",
        ge=0,
        le=16,
    )

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Words of letters match whole words; of scripts without spaces, anywhere."""
        parts = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in self.exclude]
        return re.compile("|".join(parts)) if parts else None

    def excluded(self, captions: Iterable[Caption]) -> str | None:
        """The first excluded word in any of an image's captions."""
        for caption in captions if self._pattern else ():
            assert self._pattern is not None
            if found := self._pattern.search(caption.text.casefold()):
                return found.group()
        return None


def border(image: Image.Image) -> float:
    """How much of an image's height or width is an even border, the larger share, from 0 to 1.

    Even: lines of pixels in which no channel varies by more than ``EVEN``, from the edges inwards. An image
    of one colour is all border.
    """
    small = image.copy()
    small.thumbnail((SEEN, SEEN), Image.Resampling.BOX)
    pixels = np.asarray(small.convert("RGB"), dtype=np.int16)
    return max(_even(pixels), _even(pixels.transpose(1, 0, 2)))


def _even(pixels: NDArray[np.int16]) -> float:
    """The share of rows, from both ends, that are even."""
    uneven = np.flatnonzero((np.ptp(pixels, axis=1) > EVEN).any(-1))
    return 1.0 if not len(uneven) else 1 - (int(uneven[-1]) - int(uneven[0]) + 1) / len(pixels)


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each pixel of an 8 x 8 grey thumbnail is darker than its right neighbour (dHash)."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")


class Lookalikes:
    """Hashes of images so far; finds one within ``distance`` bits exactly.

    Hashes that differ in at most d bits agree in one of d + 1 parts (the pigeonhole principle), so only those
    with a part in common are compared.
    """

    def __init__(self, distance: int) -> None:
        self.distance = distance
        edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
        self._cuts = [(low, (1 << high - low) - 1) for low, high in pairwise(edges)]
        self._known: dict[tuple[int, int], list[int]] = {}

    def meets(self, look: int) -> bool:
        """Whether one so far is that near; else this one is remembered."""
        parts = [(number, look >> low & mask) for number, (low, mask) in enumerate(self._cuts)]
        for part in parts:
            if any((look ^ other).bit_count() <= self.distance for other in self._known.get(part, ())):
                return True
        for part in parts:
            self._known.setdefault(part, []).append(look)
        return False
