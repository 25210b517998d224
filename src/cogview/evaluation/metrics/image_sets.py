"""Sets of images to compare: a folder of files, or the rows of a Parquet corpus.

A set has a fixed order and a fingerprint over the bytes of its files, which shows whether two people measured
the same images.
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
    """Images by key, in order, each as a file or its bytes.

    where: the source, for messages and the manifest; entries: (key, path or bytes).
    """

    where: str
    entries: tuple[tuple[str, Path | bytes], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over keys and contents."""
        digest = hashlib.sha256()
        for key, entry in self.entries:
            content = entry if isinstance(entry, bytes) else entry.read_bytes()
            digest.update(f"{key}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()

    def image(self, index: int) -> Image.Image:
        """An image in RGB; CogViewError if it is broken."""
        key, entry = self.entries[index]
        try:
            return decode(entry).image
        except BadImage as error:
            raise CogViewError(f"{self.where}: image {key!r} is broken: {error}; remove it") from None

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """The different sizes, such as "72 x 72", most common first; files that are no images are ignored."""
        counts: Counter[str] = Counter()
        for _, entry in self.entries:
            with (
                contextlib.suppress(Exception),  # image readers raise any exception on damaged headers
                open_image(entry) as image,
            ):
                counts[f"{image.width} x {image.height}"] += 1
        return tuple(size for size, _ in counts.most_common())

    def provenances(self) -> list[Provenance]:
        """The provenance of each image; [] unless all images have it."""
        read_all = [read(entry) for _, entry in self.entries]
        return [provenance for provenance in read_all if provenance is not None] if all(read_all) else []


def open_set(
    place: Path, split: str | None = None, source: str | None = None, count: int | None = None
) -> ImageSet:
    """The images of a folder and its subfolders, or of a corpus of Parquet files.

    Args:
        split, source: which rows of a corpus; None for all.
        count: the number of images; their order follows from hashes of the keys and mixes sources and styles.

    Raises:
        CogViewError: there are no images, or fewer than ``count``.
    """
    if place.is_file() or (place.is_dir() and any(place.glob("*.parquet"))):
        rows = read_rows(place, ("key", "image", "split", "source"))
        entries: list[tuple[str, Path | bytes]] = [
            (row["key"], row["image"] or b"")
            for row in rows
            if split in (None, row["split"]) and source in (None, row["source"])
        ]
    elif place.is_dir():
        files = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        entries = [(path.relative_to(place).as_posix(), path) for path in files]
    else:
        raise CogViewError(f"{place}: no such folder; give one with images or Parquet files")
    if not entries or (count or 0) > len(entries):
        expected = f", not {count}" if count else ""
        raise CogViewError(f"{place}: {len(entries)} images there{expected}; check folder, split and source")
    entries.sort(key=lambda entry: hashlib.sha256(entry[0].encode()).digest() if count else entry[0].encode())
    return ImageSet(str(place), tuple(entries[:count]))


@dataclass(frozen=True)
class Shape:
    """Preprocessing for a network: crop to a square of ``canvas`` pixels, blur, resize to ``size``.

    The blur is Pillow's Gaussian of radius ``blur`` on the canvas (CogView, section 4.1: FID-k blurs both
    sets at 256 pixels); ``resample`` is the kernel of both resizings.
    """

    canvas: int
    size: int
    blur: float = 0.0
    resample: str = "bicubic"

    def array(self, image: Image.Image) -> NDArray[np.uint8]:
        """The preprocessed image, (size, size, 3) uint8."""
        kernel = RESAMPLE[self.resample]
        image = centre_crop(resize_shorter(image, self.canvas, kernel), self.canvas)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        if self.size != self.canvas:
            image = image.resize((self.size, self.size), kernel)
        return np.asarray(image, dtype=np.uint8)


def stacked(images: ImageSet, rows: Sequence[int], shape: Shape) -> NDArray[np.uint8]:
    """The preprocessed images of ``rows``, (rows, size, size, 3) uint8."""
    return np.stack([shape.array(images.image(row)) for row in rows])


def chunks(count: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most ``size`` that cover 0 … count - 1."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
