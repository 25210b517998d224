"""What one training sample is: an image, its captions and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

CaptionKind = Literal["plain", "styled", "keyword", "reworded"]
KINDS: tuple[CaptionKind, ...] = ("plain", "styled", "keyword", "reworded")


@dataclass(frozen=True)
class Caption:
    """One text for an image.

    ``language`` is a short tag ("en", "zh", …; "" when unknown). ``kind`` tells a plain caption from one that
    names the drawing style as well, from a mere keyword and from another wording of the plain one.
    """

    text: str
    language: str = ""
    kind: CaptionKind = "plain"


@dataclass(frozen=True)
class Sample:
    """An image that passed every check, with its captions.

    ``image`` is an RGB image of any size; ``key`` is unique in the data set; ``source`` and ``split`` are
    free names ("icons", "train").
    """

    key: str
    image: Image.Image
    captions: tuple[Caption, ...]
    source: str = "data"
    split: str = "train"
