"""The options of ``cogview import cogview`` and ``cogview2``: the files of the releases, and settings that
they do not contain. Nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import model_validator

from cogview.config import Config, Existing, MaybeExisting, option

CHECKPOINT = option(None, "A checkpoint: the folder with its tracker file, or a .pt file.")
HEADS = option(None, "Attention heads.", shown="as in model_config.json, or hidden size / 64", ge=1)
GRID, GRID2 = 32, 20  # codes per side of an image of 256 pixels, of 160 pixels
TEXT_SLOTS, IMAGE_START = 112, 512
DIRECT_SLOTS, ITERATIVE_SLOTS = 96, 16  # positions of the text


class Release(Config):
    """The files of CogView's release, and settings that they do not contain.

    released: compute bit for bit as the released code, with its batch-dependent LayerNorm.
    """

    image_tokenizer: Existing = option(..., "vqvae_hard_biggerset_011.pt.", metavar="FILE")
    text_tokenizer: Existing = option(..., "cog-pretrain.model.", "--text", metavar="FILE")
    base: MaybeExisting = CHECKPOINT
    caption: MaybeExisting = CHECKPOINT
    super_resolution: MaybeExisting = CHECKPOINT
    grid: int = option(GRID, "Codes per side of an image: 32 for 256 pixels.", ge=2)
    heads: int | None = HEADS
    released: bool = option(False, "Compute bit for bit as the released code, with batch-wide LayerNorm.")

    @model_validator(mode="after")
    def _has_a_transformer(self) -> Self:
        if not self.transformers:
            raise ValueError("give a transformer: --base, --caption or --super-resolution")
        return self

    @property
    def transformers(self) -> Mapping[str, Path]:
        """Role to checkpoint (a directory, or a single file)."""
        paths = {"base": self.base, "caption": self.caption, "super_resolution": self.super_resolution}
        return {role: path for role, path in paths.items() if path is not None}


class Release2(Config):
    """The files of CogView2's release, and settings that they do not contain.

    clusters: the released labels (``cluster_label.npy``); None: cluster the codebook again.
    """

    coglm: Existing = option(..., "CogLM: the folder with `latest`, or a .pt file.")
    image_tokenizer: Existing = option(..., "ice_image.pt.", metavar="FILE")
    text_tokenizer: Existing = option(..., "ice_text.model.", "--text", metavar="FILE")
    direct: MaybeExisting = CHECKPOINT
    iterative: MaybeExisting = CHECKPOINT
    clusters: Path | None = option(
        None, "cluster_label.npy.", metavar="FILE", shown="500 clusters, computed from the codebook"
    )
    grid: int = option(GRID2, "Codes per side of an image: 20 for 160 pixels.", ge=2)
    text_slots: int = option(TEXT_SLOTS, "Positions of the text, including its end token.", ge=2)
    image_start: int = option(IMAGE_START, "The position of <start_of_image>.", ge=1)
    direct_slots: int = option(DIRECT_SLOTS, "Positions of the text in the direct model.", ge=1)
    iterative_slots: int = option(ITERATIVE_SLOTS, "Positions of the text in the iterative model.", ge=1)
    heads: int | None = HEADS

    @property
    def transformers(self) -> Mapping[str, Path]:
        """Role to checkpoint (a directory, or a single file)."""
        paths = {"base": self.coglm, "direct": self.direct, "iterative": self.iterative}
        return {role: path for role, path in paths.items() if path is not None}
