"""The alignment scorer: a dual encoder of images and sentences, in Chinese or English.

Two towers trained together (``scorer_training.py``), as in CLIP (Radford et al., 2021): a small convolutional
network encodes the image, a small transformer the text; the cosine of their embeddings measures how well they
match. It takes the place of CLIP in the paper (CogView, section 4.1), for retrieval and R-precision
(``alignment.py``). It is trained on real images only, and no generator is ever trained against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogview._moved import renamed
from cogview.config import Config, read_json
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges import weights
from cogview.evaluation.judges.classifier import make_trunk
from cogview.tokenizers.text import TextTokenizer

CHUNK = 64
Vectors = NDArray[np.float64]


class ScorerConfig(Config):
    """The network's configuration.

    pieces: vocabulary size of the text tokenizer; length: texts are truncated to this many tokens; widths,
    blocks: of the image tower, as in ``make_trunk``; hidden, layers, heads: of the text tower; size: of the
    embeddings.
    """

    format: Literal[1] = 1
    pieces: int = Field(ge=1, le=1 << 24)
    preprocessing: Preprocessing
    size: int = Field(192, ge=2, le=1 << 14)
    widths: weights.Widths = (24, 48, 96, 192)
    blocks: weights.Depths = (0, 1, 1, 1)
    hidden: int = Field(128, ge=8, le=1 << 14)
    layers: int = Field(2, ge=1, le=64)
    heads: int = Field(4, ge=1, le=1 << 10)
    length: int = Field(64, ge=1, le=1 << 14)
    text_tokenizer: str = ""
    facts: dict[str, str | int | float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must have the same length")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}")
        return self


class ImageTower(nn.Module):
    """Images (batch, 3, H, W) in [0, 1] to (batch, size).

    A convolutional trunk, then the sum of two linear layers: over its positions and over its mean.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.trunk = make_trunk(config.widths, config.blocks)
        side = config.preprocessing.size
        for _ in config.widths:
            side = -(-side // 2)
        self.narrow = nn.Conv2d(config.widths[-1], config.widths[-1] // 2, 1)
        self.places = nn.Linear(config.widths[-1] // 2 * side * side, config.size)
        self.mean = nn.Linear(config.widths[-1], config.size)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        by_position: Tensor = self.places(self.narrow(maps).flatten(1))
        by_mean: Tensor = self.mean(maps.mean((2, 3)))
        return by_position + by_mean


class TextTower(nn.Module):
    """Text tokens (batch, length) int64, padded with -1, to (batch, size): a transformer, then the mean."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.pieces, config.hidden)
        self.positions = nn.Embedding(config.length, config.hidden)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            config.hidden, config.heads, 4 * config.hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.hidden)
        self.out = nn.Linear(config.hidden, config.size)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens >= 0
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens.clamp_min(0)) + self.positions(positions)
        x = self.norm(self.layers(x, src_key_padding_mask=~mask))  # (batch, length, hidden)
        valid = mask.unsqueeze(-1).to(x.dtype)
        y: Tensor = self.out((x * valid).sum(1) / valid.sum(1))
        return y


class DualEncoder(nn.Module):
    """Both towers, their text tokenizer, and the learned temperature (``sharpness``: log of its inverse)."""

    def __init__(self, config: ScorerConfig, text: TextTokenizer) -> None:
        super().__init__()
        self.config, self.text = config, text
        self.picture_tower, self.text_tower = ImageTower(config), TextTower(config)
        self.sharpness = nn.Parameter(torch.tensor(2.659))  # log(1 / 0.07), as in CLIP

    @property
    def image_size(self) -> int:
        """Side of the input images, in pixels."""
        return self.config.preprocessing.size

    def text_tokens(self, texts: Sequence[str]) -> Tensor:
        """Text tokens (n, longest), padded with -1 and truncated to ``length``.

        Raises:
            CogViewError: a text is empty.
        """
        encoded = [self.text.encode(text)[: self.config.length] for text in texts]
        if not all(encoded):
            raise CogViewError("a text is empty; every image needs a caption")
        padded = torch.full((len(texts), max(map(len, encoded), default=1)), -1)
        for row, tokens in enumerate(encoded):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        return padded

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-norm embeddings of images and of texts, (batch, size) each."""
        return F.normalize(self.picture_tower(images), dim=1), F.normalize(self.text_tower(tokens), dim=1)

    @torch.inference_mode()
    def encode_image(self, images: NDArray[np.uint8]) -> Vectors:
        """Unit-norm embeddings (n, size) of images (n, H, W, 3), H = W = :attr:`image_size`; float64."""
        side = self.image_size
        if images.shape[1:] != (side, side, 3):
            raise CogViewError(f"the scorer reads images of {side} x {side}, not {images.shape[1:]}")
        self.eval()
        embeddings = [
            self.picture_tower(torch.from_numpy(images[i : i + CHUNK]).permute(0, 3, 1, 2).float() / 255)
            for i in range(0, len(images), CHUNK)
        ]
        return _normalized(torch.cat(embeddings))

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Unit-norm embeddings (n, size) of texts; float64."""
        self.eval()
        embeddings = [
            self.text_tower(self.text_tokens(texts[i : i + CHUNK])) for i in range(0, len(texts), CHUNK)
        ]
        return _normalized(torch.cat(embeddings))

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration, the text tokenizer and all weights."""
        return weights.fingerprint(self.config, self, self.text.model)

    def save(self, directory: Path) -> None:
        """Write ``text.model``, ``model.safetensors`` and ``config.json``."""
        directory.mkdir(parents=True, exist_ok=True)
        self.text.save(directory / "text.model")
        weights.save(self.config, self, directory)

    @classmethod
    def from_directory(cls, directory: Path) -> DualEncoder:
        """Read a scorer written by :meth:`save`.

        Raises:
            CogViewError: files are missing, damaged, of another network or do not fit each other.
        """
        weights.require(directory, "scorer", "cogview eval train-scorer")
        config = read_json(ScorerConfig, directory / weights.CONFIG)
        text = TextTokenizer.from_file(directory / "text.model")
        if text.pieces != config.pieces or text.fingerprint != config.text_tokenizer:
            raise CogViewError(f"{directory}: text.model is not the tokenizer the scorer was trained with")
        return weights.load(lambda: cls(config, text), directory, "scorer").eval()


def _normalized(vectors: Tensor) -> Vectors:
    array = vectors.double().numpy()
    normalized: Vectors = array / np.linalg.norm(array, axis=1, keepdims=True)
    return normalized


__getattr__ = renamed(__name__, AlignmentScorer="DualEncoder")
