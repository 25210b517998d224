"""What pipelines return: generated images with their provenance, captions, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from cogview.checkpoints.provenance import Provenance, png_bytes, save_png, software
from cogview.errors import CogViewError
from cogview.types import Ids

OutputType = Literal["image", "pil", "np", "pt", "codes"]


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image and what made it.

    codes: (rows * columns,) int64, of the image tokenizer; prompt: as it was given; caption: what the model
    read, with the style; index: which image of its prompt (0-based); settings: all else that matters.
    """

    image: Image.Image
    codes: Ids
    prompt: str
    caption: str
    seed: int
    index: int
    settings: dict[str, Any]
    model: str
    model_hash: str

    @property
    def provenance(self) -> Provenance:
        """What is written into the file."""
        return Provenance(
            software=software(),
            prompt=self.prompt,
            seed=self.seed,
            index=self.index,
            model=self.model,
            model_hash=self.model_hash,
            settings=self.settings,
        )

    def png(self) -> bytes:
        """The PNG file, with the provenance inside."""
        return png_bytes(self.image, self.provenance)

    def _repr_png_(self) -> bytes:
        """As notebooks show it."""
        return self.png()

    def save(self, path: str | Path) -> None:
        """Write a PNG file with the provenance inside; CogViewError where the place is not writable."""
        save_png(self.image, path, self.provenance)


@dataclass(frozen=True)
class Caption:
    """A caption of an image.

    pieces: (n,) int64, tokens of the text tokenizer; score: mean log-probability of a token where beams found
    it; seed and index: its random stream where it was sampled.
    """

    text: str
    pieces: Ids
    score: float | None = None
    seed: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Ranked:
    """An image's place in an order: its number as it was given, and its caption loss (or released score)."""

    number: int
    score: float


def check_output(kind: str) -> None:
    """CogViewError for an output type that there is not."""
    if kind not in get_args(OutputType):
        known = ", ".join(get_args(OutputType))
        raise CogViewError(f"unknown output_type {kind!r}; there are {known}", field="output_type")


def as_output(images: Sequence[GeneratedImage], kind: OutputType) -> Any:
    """The images as they are (``image``), as Pillow images (``pil``), as float32 in [0, 1], (n, height,
    width, 3) NumPy (``np``) or (n, 3, height, width) PyTorch (``pt``), or as their ``codes`` (n, rows *
    columns) int64."""
    if kind == "image":
        return list(images)
    if kind == "pil":
        return [one.image for one in images]
    if kind == "codes":
        return np.stack([one.codes for one in images])
    pixels = np.stack([np.asarray(one.image.convert("RGB"), dtype=np.float32) / 255 for one in images])
    if kind == "np":
        return pixels
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
