"""A training sample: an image, its captions and its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

CaptionKind = Literal["plain", "styled", "keyword", "reworded"]
KINDS: tuple[CaptionKind, ...] = ("plain", "styled", "keyword", "reworded")


@dataclass(frozen=True)
class Caption:
    """One text for an image.

    ``language`` is a short tag ("en", "zh", …; "" if unknown). ``kind``: a plain caption, one that also names
    the style, a keyword, or another wording of the plain caption.
    """

    text: str
    language: str = ""
    kind: CaptionKind = "plain"


@dataclass(frozen=True)
class Sample:
    """An image that passed every check, with its captions.

    ``image`` is an RGB image of any size; ``key`` is unique in the data set; ``source`` and ``split`` are
    arbitrary names ("icons", "train").
    """

    key: str
    image: Image.Image
    captions: tuple[Caption, ...]
    source: str = "data"
    split: str = "train"
