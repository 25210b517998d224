"""Sets of images to be compared: a folder of files, or the rows of a Parquet corpus.

A set is read in a fixed order and known by the hash of its files' bytes, so that two people can tell whether
they measured the same thing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cogview.checkpoints.provenance import Provenance, read
from cogview.data.images import RESAMPLE, BadImage, centre_crop, decode, resize_shorter
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import read_rows
from cogview.image_files import open_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageSet:
    """Pictures by key, in order; each as the bytes of a file.

    where: for messages and the manifest; entries: (key, path or bytes).
    """

    where: str
    entries: tuple[tuple[str, Path | bytes], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over keys and contents."""
        whole = hashlib.sha256()
        for key, entry in self.entries:
            content = entry if isinstance(entry, bytes) else entry.read_bytes()
            whole.update(f"{key}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return whole.hexdigest()

    def image(self, index: int) -> Image.Image:
        """An image in RGB; CogViewError where it is broken."""
        key, entry = self.entries[index]
        try:
            return decode(entry).image
        except BadImage as error:
            raise CogViewError(f"{self.where}: picture {key!r} is broken: {error}; take it out") from None

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """The different sizes, "72 x 72", by how often; files that are no images are passed over."""
        found: Counter[str] = Counter()
        for _, entry in self.entries:
            with (
                contextlib.suppress(Exception),  # readers of damaged headers raise anything
                open_image(entry) as image,
            ):
                found[f"{image.width} x {image.height}"] += 1
        return tuple(size for size, _ in found.most_common())

    def provenances(self) -> list[Provenance]:
        """What the images say of their making; [] unless all of them do."""
        found = [read(entry) for _, entry in self.entries]
        return [fact for fact in found if fact is not None] if all(found) else []


def open_set(
    place: Path, split: str | None = None, source: str | None = None, count: int | None = None
) -> ImageSet:
    """The images of a folder (with its folders), or of a corpus of Parquet files.

    Args:
        split, source: which rows of a corpus; None for all.
        count: the number of images, the first in an order that keys decide and that mixes sources and styles.

    Raises:
        CogViewError: no image there, or fewer than ``count``.
    """
    if place.is_file() or (place.is_dir() and any(place.glob("*.parquet"))):
        rows = read_rows(place, ("key", "image", "split", "source"))
        found: list[tuple[str, Path | bytes]] = [
            (row["key"], row["image"] or b"")
            for row in rows
            if split in (None, row["split"]) and source in (None, row["source"])
        ]
    elif place.is_dir():
        files = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found = [(path.relative_to(place).as_posix(), path) for path in files]
    else:
        raise CogViewError(f"{place}: no such folder; give one with pictures or Parquet files")
    if not found or (count or 0) > len(found):
        wanted = f", not {count}" if count else ""
        raise CogViewError(f"{place}: {len(found)} pictures there{wanted}; check folder, split and source")
    found.sort(key=lambda entry: hashlib.sha256(entry[0].encode()).digest() if count else entry[0].encode())
    return ImageSet(str(place), tuple(found[:count]))


@dataclass(frozen=True)
class Shape:
    """How an image reaches a network: squared to ``canvas`` pixels, blurred, resized to ``size``.

    The blur is Pillow's Gaussian of ``blur`` pixels on the canvas (CogView, section 4.1: FID-k blurs both
    sides at 256 pixels); ``resample`` names the kernel of both resizings.
    """

    canvas: int
    size: int
    blur: float = 0.0
    resample: str = "bicubic"

    def array(self, image: Image.Image) -> NDArray[np.uint8]:
        """(size, size, 3) uint8."""
        kernel = RESAMPLE[self.resample]
        image = centre_crop(resize_shorter(image, self.canvas, kernel), self.canvas)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        if self.size != self.canvas:
            image = image.resize((self.size, self.size), kernel)
        return np.asarray(image, dtype=np.uint8)


def stacked(pictures: ImageSet, rows: Sequence[int], shape: Shape) -> NDArray[np.uint8]:
    """(rows, size, size, 3) uint8."""
    return np.stack([shape.array(pictures.image(row)) for row in rows])


def chunks(count: int, size: int) -> Iterator[range]:
    """Ranges of at most ``size`` that cover 0 … count - 1."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
