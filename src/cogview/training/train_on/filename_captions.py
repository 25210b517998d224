"""Captions for images without captions: the words of the file name, or else of the folder name.

This captions data sets that are sorted into folders by subject, and files with descriptive names. Generic
names from cameras and browsers ("IMG_0012", "download (3)") are ignored.
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
GENERIC_WORDS = """
    img image images dsc dscn dscf pic picture pictures photo photos screenshot screen shot download untitled
    unnamed file copy of scan frame sample train val test data item p i x n no jpg jpeg png
"""
GENERIC = frozenset(GENERIC_WORDS.split())


def name_caption(key: str, source: str = "") -> Caption:
    """A Chinese or English caption from a key ("red_apple-01.png", "cats/0001.jpg")."""
    path = PurePosixPath(key)
    for name in (path.stem, path.parent.name, source):
        words = WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
        if any(_is_descriptive(word) for word in words) and not _is_hash(name):
            text = " ".join(words) if is_chinese(name) else " ".join(words).lower()
            return Caption(text, "zh" if is_chinese(name) else "en")
    return Caption(ANYTHING, "en")


def _is_descriptive(word: str) -> bool:
    return word.lower() not in GENERIC and (len(word) > 1 or is_chinese(word[:1]))


def _is_hash(name: str) -> bool:
    """Whether a name consists of hexadecimal digits."""
    return bool(re.fullmatch(r"[0-9a-fA-F-]{8,}", name))


class NamedSource:
    """A source that captions records without captions by their names."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source."""
        return f"named {self.source.fingerprint()}"

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from index ``start`` on."""
        for record in self.source.records(start):
            if record.captions or record.problem:
                yield record
            else:
                yield replace(record, captions=(name_caption(record.key, record.source),))
