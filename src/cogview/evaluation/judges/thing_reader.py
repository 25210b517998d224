"""The reader of things: a classifier of the everyday thing that an image shows.

An ImageNet network (EfficientNet-Lite0) whose last blocks are fine-tuned on drawings in many styles, and one
linear layer. Its results are reported with its ceiling: its accuracy on held-out pairs of thing and style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.config import Config, read_json
from cogview.evaluation.judges import weights
from cogview.evaluation.metrics.lite0 import FEATURES, Lite0

Progress = Callable[[int, int], None]
WHAT, VERB = "reader of things", "cogview train"


class ThingReaderConfig(Config):
    """The classes, in the order of the logits, and the side of the input images in pixels.

    ``facts``: how it was trained, and its ceiling: ``ceiling_first`` and ``ceiling_five``.
    """

    format: Literal[1] = 1
    things: tuple[str, ...] = Field(min_length=2)
    size: int = Field(128, ge=32, le=1024)
    facts: dict[str, str | int | float] = Field(default_factory=dict)


class ThingReader(nn.Module):
    """Images (b, 3, size, size) in [0, 1] to logits (b, things)."""

    def __init__(self, config: ThingReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = Lite0()
        self.network.classes = nn.Linear(FEATURES, len(config.things))
        nn.init.zeros_(self.network.classes.weight)
        nn.init.zeros_(self.network.classes.bias)

    def features(self, images: Tensor, frozen: int = 0) -> Tensor:
        """Pooled features (b, 1280). ``frozen``: this many blocks get no gradient.

        Under autocast only the frozen blocks run in half precision, which is faster only without a backward
        pass.
        """
        network = self.network
        x = (images - network.get_buffer("mean")) / network.get_buffer("std")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = network.blocks[:frozen](network.stem(x))
        with torch.autocast(images.device.type, enabled=False):
            pooled: Tensor = network.head(network.blocks[frozen:](x.float())).mean((2, 3))
        return pooled

    def forward(self, images: Tensor, frozen: int = 0) -> Tensor:
        features = F.dropout(self.features(images, frozen), 0.2, self.training)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.network.classes(features)
        return logits

    @torch.no_grad()
    def read(
        self,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        batch: int = 32,
        progress: Progress | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features (n, 1280) and probabilities (n, things) of images (side, side, 3) of any sizes."""
        self.eval()
        device = self.network.classes.weight.device
        features, probabilities = list[Tensor](), list[Tensor]()
        for first in range(0, len(images), batch):
            inputs = [resized(image, self.config.size) for image in images[first : first + batch]]
            pooled = self.features(torch.cat(inputs).to(device))
            features.append(pooled.cpu())
            probabilities.append(self.network.classes(pooled).float().softmax(1).cpu())
            if progress:
                progress(min(first + batch, len(images)), len(images))
        empty = torch.zeros(0, FEATURES), torch.zeros(0, len(self.config.things))
        return torch.cat(features or [empty[0]]).numpy(), torch.cat(probabilities or [empty[1]]).numpy()

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration and all weights."""
        return weights.fingerprint(self.config, self)

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(self.config, self, directory)

    @classmethod
    def from_directory(cls, directory: Path) -> ThingReader:
        """Read what :meth:`save` wrote; CogViewError if it is missing, damaged or another network."""
        weights.require(directory, WHAT, VERB)
        config = read_json(ThingReaderConfig, directory / weights.CONFIG)
        return weights.load(lambda: cls(config), directory, WHAT).eval()


def resized(image: NDArray[np.uint8], size: int) -> Tensor:
    """An image (H, W, 3) as (1, 3, size, size) in [0, 1], resized bilinearly with antialiasing."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def in_top_k(probabilities: NDArray[np.float32], targets: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether each target (n,) is among the k most probable of (n, things); ties count against it."""
    of_target = probabilities[np.arange(len(targets)), targets]
    return np.asarray((probabilities >= of_target[:, None]).sum(1) <= k)
