"""Captioned images from any source that ``cogview data`` reads, for training and measuring alignment.

A file that ``cogview generate`` wrote holds its prompt, so a folder of such files needs no caption files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cogview.checkpoints.provenance import read as read_provenance
from cogview.data.images import BadImage, decode, square
from cogview.data.shards import Preprocessing
from cogview.data.sources import Record, open_source
from cogview.errors import CogViewError
from cogview.tokenizers.language_classes import is_chinese

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Captioned:
    """Images (n, size, size, 3) uint8 with their keys, sources and captions.

    ``languages``: the language of each text, "zh", "en" or another tag.
    """

    images: NDArray[np.uint8]
    keys: Sequence[str]
    sources: Sequence[str]
    texts: Sequence[Sequence[str]]
    languages: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, language: str) -> list[str | None]:
        """Each image's first text in a language; None if it has none."""
        return [
            next((text for text, tag in zip(texts, tags, strict=True) if tag == language), None)
            for texts, tags in zip(self.texts, self.languages, strict=True)
        ]

    def rows(self, rows: Sequence[int]) -> Captioned:
        """The images of ``rows``, in this order."""
        return Captioned(
            self.images[list(rows)],
            [self.keys[row] for row in rows],
            [self.sources[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.languages[row] for row in rows],
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits over keys, texts and pixels."""
        digest = hashlib.sha256()
        for key, texts, image in zip(self.keys, self.texts, self.images, strict=True):
            digest.update("\0".join([key, *texts]).encode() + hashlib.sha256(image.tobytes()).digest())
        return digest.hexdigest()[:16]


def language_of(text: str, tag: str = "") -> str:
    """A text's language: its tag, else Chinese if it has Chinese characters, else English."""
    return tag.split("-")[0] if tag else ("zh" if is_chinese(text) else "en")


def read_captioned(
    place: Path,
    shape: Preprocessing,
    split: str | None = None,
    source: str | None = None,
    count: int | None = None,
    styled: bool = False,
    progress: Progress | None = None,
) -> Captioned:
    """Read the captioned images at ``place``; keyword captions are left out.

    Args:
        split, source: which records; None for all.
        count: the number of images; their order follows from hashes of the keys and mixes sources.
        styled: include captions that name the drawing style, if a table has them.

    Raises:
        CogViewError: an image has no caption or is broken (the message names its place), or there are fewer
            than two.
    """
    records = [
        record
        for record in open_source(place).records()
        if split in (None, record.split) and source in (None, record.source)
    ]
    if count is not None:
        records.sort(key=lambda record: hashlib.sha256(record.key.encode()).digest())
        if len(records) < count:
            raise CogViewError(f"{place}: {len(records)} images there, not {count}; lower the number")
        records = records[:count]
    if len(records) < 2:
        raise CogViewError(
            f"{place}: {len(records)} captioned images of split {split or 'any'!r}; 2 or more are needed"
        )
    images = np.zeros((len(records), shape.size, shape.size, 3), dtype=np.uint8)
    texts, languages = [], []
    for row, record in enumerate(records):
        captions = texts_of(record, styled)
        texts.append([text for text, _ in captions])
        languages.append([language for _, language in captions])
        images[row] = _pixels(record, shape)
        if progress and (row % 100 == 99 or row + 1 == len(records)):
            progress("reading images", row + 1, len(records))
    keys, sources = [record.key for record in records], [record.source for record in records]
    return Captioned(images, keys, sources, texts, languages)


def texts_of(record: Record, styled: bool) -> list[tuple[str, str]]:
    """(text, language) of a record's captions; for a generated image without captions, its prompt."""
    kinds = ("plain", "styled") if styled else ("plain",)
    captions = [(c.text, language_of(c.text, c.language)) for c in record.captions if c.kind in kinds]
    if not captions and isinstance(record.image, Path) and not record.problem:
        provenance = read_provenance(record.image) if record.image.suffix.lower() == ".png" else None
        prompt = provenance.prompt if provenance else ""
        captions = [(prompt, language_of(prompt))] if prompt.strip() else []
    if not captions:
        raise CogViewError(
            f"{record.place}: {record.problem or 'no caption'}; write one beside the image (NAME.txt)"
        )
    return list(dict.fromkeys(captions))


def _pixels(record: Record, shape: Preprocessing) -> NDArray[np.uint8]:
    if record.image is None:
        raise CogViewError(f"{record.place}: {record.problem or 'no image'}; remove it")
    try:
        return square(decode(record.image).image, shape)
    except BadImage as error:
        raise CogViewError(f"{record.place}: the image is broken: {error}; remove it") from None
