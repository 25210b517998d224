"""The attribute classifier: a small convolutional network that predicts the attributes of an image.

One trunk is shared by all styles. Each style has a head that pools the trunk's feature map with a few learned
spatial weightings per attribute (the avatars of a style are aligned, so position is informative) and ends in
one linear layer per attribute. The classifier judges generated images, so it is trained on real training
images only (``classifier_training.py``), and no generator is ever trained against it.

Images are ``(batch, 3, H, W)`` in [0, 1], H = W = ``image_size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogview._moved import renamed
from cogview.config import Config, read_json
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges import weights
from cogview.evaluation.judges.attribute_corpus import Attribute


class ClassifierConfig(Config):
    """The network's configuration: the attributes, and width and residual blocks of each resolution.

    looks: spatial weightings per attribute.
    """

    format: Literal[1] = 1
    attributes: tuple[Attribute, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    widths: weights.Widths = (24, 48, 96)
    blocks: weights.Depths = (1, 1, 2)
    looks: int = Field(4, ge=1, le=1 << 10)
    facts: dict[str, str | int | float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_depth(self) -> Self:
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must have the same length")
        return self

    @property
    def image_size(self) -> int:
        """Side of the input images, in pixels."""
        return self.preprocessing.size

    def of_style(self, style: str) -> tuple[Attribute, ...]:
        """The attributes of one style, in the order of the head's outputs."""
        return tuple(attribute for attribute in self.attributes if attribute.style == style)


class Residual(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(inner)))


def make_trunk(widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    """A stride-2 convolution and residual blocks for each of n widths.

    (batch, 3, H, W) to (batch, widths[-1], H / 2^n, W / 2^n), rounded up.
    """
    layers: list[nn.Module] = []
    channels = 3
    for i, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
        kernel = 5 if i == 0 else 3
        layers += [nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [Residual(width) for _ in range(depth)]
        channels = width
    return nn.Sequential(*layers)


class StyleHead(nn.Module):
    """Classification head of one style: ``looks`` spatial weightings and a linear layer per attribute."""

    def __init__(self, sizes: Mapping[str, int], width: int, places: int, looks: int) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.looks = nn.Parameter(torch.randn(len(sizes), looks, places) / places**0.5)
        self.drop = nn.Dropout(0.1)
        self.answers = nn.ModuleList([nn.Linear(width * looks, size) for size in sizes.values()])

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        pooled = torch.einsum("bcp,alp->abcl", maps.flatten(2), self.looks)
        pooled = self.drop(pooled.flatten(2))  # (attributes, batch, c * looks)
        return {
            name: answer(pooled[i])
            for i, (name, answer) in enumerate(zip(self.sizes, self.answers, strict=True))
        }


class AttributeClassifier(nn.Module):
    """Predicts the attributes of images whose style is known; see the module's docstring."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = make_trunk(config.widths, config.blocks)
        side = config.image_size
        for _ in config.widths:
            side = -(-side // 2)
        self.styles = sorted({attribute.style for attribute in config.attributes})
        sizes = {style: {a.name: len(a.classes) for a in config.of_style(style)} for style in self.styles}
        self.heads = nn.ModuleList(
            [StyleHead(sizes[style], config.widths[-1], side * side, config.looks) for style in self.styles]
        )

    def forward(self, images: Tensor, styles: Sequence[str]) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Logits by style: the batch rows of that style, and by attribute their logits (rows, classes).

        Only the heads of styles in the batch are computed.
        """
        maps = self.trunk(images * 2 - 1)
        logits: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        for style, head in zip(self.styles, self.heads, strict=True):
            rows = torch.tensor([i for i, name in enumerate(styles) if name == style], dtype=torch.long)
            if len(rows):
                logits[style] = rows, head(maps[rows])
        return logits

    @torch.no_grad()
    def read(self, images: Tensor, styles: Sequence[str], batch: int = 64) -> list[dict[str, int]]:
        """Predict each image's class for every attribute of its style.

        Raises:
            CogViewError: an unknown style, or images of another size.
        """
        self._check(images, styles)
        self.eval()
        answers: list[dict[str, int]] = [{} for _ in styles]
        for first in range(0, len(styles), batch):
            by_style = self(images[first : first + batch], styles[first : first + batch])
            for rows, logits in by_style.values():
                for name, values in logits.items():
                    for row, label in zip(rows.tolist(), values.argmax(1).tolist(), strict=True):
                        answers[first + row][name] = label
        return answers

    def _check(self, images: Tensor, styles: Sequence[str]) -> None:
        unknown = sorted(set(styles) - set(self.styles))
        if unknown:
            raise CogViewError(f"the classifier does not know style {unknown[0]!r}; train it on this corpus")
        side = self.config.image_size
        if tuple(images.shape[1:]) != (3, side, side):
            raise CogViewError(
                f"the classifier reads images of {side} x {side}, not {tuple(images.shape[1:])}"
            )

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration and all weights."""
        return weights.fingerprint(self.config, self)

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(self.config, self, directory)

    @classmethod
    def from_directory(cls, directory: Path) -> AttributeClassifier:
        """Read a classifier written by :meth:`save`.

        Raises:
            CogViewError: files are missing, damaged, of another format or do not fit each other.
        """
        weights.require(directory, "classifier", "cogview eval train-classifier")
        config = read_json(ClassifierConfig, directory / weights.CONFIG)
        return weights.load(lambda: cls(config), directory, "classifier").eval()


__getattr__ = renamed(__name__, AttributeReader="AttributeClassifier")
