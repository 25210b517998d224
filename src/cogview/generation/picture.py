"""A generated picture: its pixels, its codes, and what made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cogview.generation.engine import Ids
from cogview.provenance import Provenance, png_bytes, save_png, software


@dataclass(frozen=True)
class Picture:
    """A generated picture and what made it.

    codes: (rows * columns,) int64, of the image tokenizer; prompt: as it was given; caption: what the model
    read, with the style; index: which picture of its prompt (0-based); settings: all else that matters.
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

    def save(self, path: str | Path) -> None:
        """Write a PNG file with the provenance inside; CogViewError where the place is not writable."""
        save_png(self.image, path, self.provenance)
