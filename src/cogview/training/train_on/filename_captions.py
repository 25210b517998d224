"""Captions for images without any: the words of the file's name, else of its folder's.

A data set sorted into folders by what they show is captioned that way, and so are files with telling names.
Names that cameras and browsers give ("IMG_0012", "download (3)") tell nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from cogview.data.samples import Caption
from cogview.data.sources import Record, Source
from cogview.tokenizers.language_classes import is_chinese

Policy = Literal["names", "skip"]
ANYTHING = "a picture"
WORD = re.compile(r"[^\W\d_]+")
GIVEN_BY_MACHINES = """
    img image images dsc dscn dscf pic picture pictures photo photos screenshot screen shot download untitled
    unnamed file copy of scan frame sample train val test data item p i x n no jpg jpeg png
"""
CAMERA = frozenset(GIVEN_BY_MACHINES.split())


def name_caption(key: str, source: str = "") -> Caption:
    """A caption from a key ("red_apple-01.png", "cats/0001.jpg"), in Chinese or English."""
    path = PurePosixPath(key)
    for name in (path.stem, path.parent.name, source):
        words = WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
        if any(_tells(word) for word in words) and not _is_hash(name):
            text = " ".join(words) if is_chinese(name) else " ".join(words).lower()
            return Caption(text, "zh" if is_chinese(name) else "en")
    return Caption(ANYTHING, "en")


def _tells(word: str) -> bool:
    return word.lower() not in CAMERA and (len(word) > 1 or is_chinese(word[:1]))


def _is_hash(name: str) -> bool:
    """Hexadecimal digits and the like: letters and digits mixed throughout."""
    return bool(re.fullmatch(r"[0-9a-fA-F-]{8,}", name))


class NamedSource:
    """A source whose records without captions get one from their names."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source."""
        return f"named {self.source.fingerprint()}"

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        for record in self.source.records(start):
            if record.captions or record.problem:
                yield record
            else:
                yield replace(record, captions=(name_caption(record.key, record.source),))
