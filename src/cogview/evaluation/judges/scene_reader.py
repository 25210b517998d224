"""The reader of scenes: a detector of the things in an image, with their boxes and colours.

It works in two stages. A small anchor-free head (as in CenterNet: Zhou et al., 2019) on three feature maps of
the reader of things predicts class-agnostic centres and boxes. Each box is then cropped from the full image
and classified by the reader of things; its colour is named from the pixels of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.config import Config, read_json
from cogview.evaluation.judges import weights
from cogview.evaluation.judges.thing_reader import Progress, ThingReader, ThingReaderConfig, resized
from cogview.evaluation.metrics.colours import box_colour
from cogview.evaluation.metrics.scene_rules import Box, Detection, Rules

WHAT, VERB = "reader of scenes", "cogview train"
LEVELS = ((4, 40), (10, 112), (15, 320))  # last block and width of the feature maps at strides 8, 16 and 32
CROP = 1.2  # side of the crop for classification, relative to the longer side of the box
MIN_SCORE = 0.05  # centres with a lower score are ignored
MAX_IOU = 0.55  # boxes that overlap more are one thing


class SceneReaderConfig(Config):
    """The reader of things, the width of the head, and the thresholds chosen on held-out scenes."""

    format: Literal[1] = 1
    things: ThingReaderConfig
    width: int = Field(96, ge=8, le=1024)
    rules: Rules = Rules()
    facts: dict[str, str | int | float] = Field(default_factory=dict)


class BoxHead(nn.Module):
    """Feature maps to one map (b, 5, H / 8, W / 8): the logit of a centre, and four distances.

    Distances go from the centre of a cell to the left, top, right and bottom of the box, in fractions of the
    image.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([nn.Conv2d(channels, width, 1) for _, channels in LEVELS])
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.answer = nn.Conv2d(width, 5, 1)
        nn.init.constant_(self.answer.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.narrow[-1](maps[-1])
        for narrow, level in zip(self.narrow[-2::-1], maps[-2::-1], strict=True):
            x = F.relu(narrow(level) + F.interpolate(x, level.shape[-2:], mode="bilinear"))
        outputs: Tensor = self.answer(self.mix(x))
        return torch.cat([outputs[:, :1], F.softplus(outputs[:, 1:])], 1)


class SceneNetwork(nn.Module):
    """A frozen reader of things and the box head on it."""

    def __init__(self, config: SceneReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.things = ThingReader(config.things)
        self.head = BoxHead(config.width)

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, size, size) in [0, 1] to (b, 5, H, W); only the head gets gradients."""
        network, maps = self.things.network, []
        with torch.no_grad():
            x = network.stem((images - network.get_buffer("mean")) / network.get_buffer("std"))
            for number, block in enumerate(network.blocks):
                x = block(x)
                if number in dict(LEVELS):
                    maps.append(x)
        with torch.autocast(images.device.type, enabled=False):
            outputs: Tensor = self.head([level.float() for level in maps])
        return outputs


def cell_centres(height: int, width: int) -> Tensor:
    """The centre (x, y) of every cell of a map, in fractions of the image; (2, height, width)."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y])


def decode_boxes(distances: Tensor) -> Tensor:
    """The boxes (left, top, right, bottom) of each cell's distances, (..., 4, H, W)."""
    centres = cell_centres(*distances.shape[-2:]).to(distances.device)
    return torch.cat([centres - distances[..., :2, :, :], centres + distances[..., 2:, :, :]], -3)


@dataclass(frozen=True)
class ScoredBox:
    """A box in fractions of the image, and the score of its centre."""

    box: Box
    score: float


def peaks(output: Tensor, min_score: float = MIN_SCORE) -> list[ScoredBox]:
    """The boxes of one image's map (5, H, W): maxima over 3 x 3 cells, after non-maximum suppression."""
    scores = output[0].sigmoid()
    highest = F.max_pool2d(scores[None], 3, 1, 1)[0]
    rows, columns = torch.nonzero((scores == highest) & (scores >= min_score), as_tuple=True)
    boxes = decode_boxes(output[1:]).clamp(0, 1)[:, rows, columns].T.tolist()
    candidates = [
        ScoredBox(tuple(box), score) for box, score in zip(boxes, scores[rows, columns].tolist(), strict=True)
    ]
    kept: list[ScoredBox] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        if all(box_iou(candidate.box, other.box) < MAX_IOU for other in kept):
            kept.append(candidate)
    return kept


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if both are empty."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height) if areas > width * height else 0.0


class SceneReader:
    """Detects things in images; a :class:`cogview.evaluation.metrics.scene_rules.SceneReader`."""

    def __init__(self, network: SceneNetwork) -> None:
        self.network = network.eval()

    @property
    def config(self) -> SceneReaderConfig:
        """The configuration, with thresholds and facts of training."""
        return self.network.config

    @property
    def rules(self) -> Rules:
        """The score thresholds."""
        return self.config.rules

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration and all weights."""
        return weights.fingerprint(self.config, self.network)

    @torch.no_grad()
    def read(
        self, images: NDArray[np.uint8], batch: int = 32, progress: Progress | None = None
    ) -> list[list[Detection]]:
        """The detections in each image (n, side, side, 3), by descending score; boxes in pixels."""
        detections: list[list[Detection]] = []
        for first in range(0, len(images), batch):
            detections += self._read(images[first : first + batch])
            if progress:
                progress(len(detections), len(images))
        return detections

    def _read(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        size = self.config.things.size
        device = next(self.network.parameters()).device
        outputs = self.network(torch.cat([resized(image, size) for image in images]).to(device)).cpu()
        side, candidates = images.shape[1], [peaks(output.float()) for output in outputs]
        boxes = [[_scaled(candidate.box, side) for candidate in of_image] for of_image in candidates]
        crops = [
            np.asarray(crop_square(Image.fromarray(image), box, CROP))
            for image, of_image in zip(images, boxes, strict=True)
            for box in of_image
        ]
        _, probabilities = self.network.things.read(crops)
        names, rows = self.config.things.things, iter(probabilities)
        by_image = []
        for image, image_boxes, image_candidates in zip(images, boxes, candidates, strict=True):
            detections = []
            for box, candidate in zip(image_boxes, image_candidates, strict=True):
                row = next(rows)
                best = int(row.argmax())
                score = candidate.score * float(row[best])
                detections.append(Detection(names[best], box, score, box_colour(image, box)))
            by_image.append(sorted(detections, key=lambda detection: -detection.score))
        return by_image

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(self.config, self.network, directory)

    @classmethod
    def from_directory(cls, directory: Path) -> SceneReader:
        """Read what :meth:`save` wrote; CogViewError if it is missing, damaged or another network."""
        weights.require(directory, WHAT, VERB)
        config = read_json(SceneReaderConfig, directory / weights.CONFIG)
        return cls(weights.load(lambda: SceneNetwork(config), directory, WHAT))


def _scaled(box: Box, side: float) -> Box:
    left, top, right, bottom = (edge * side for edge in box)
    return left, top, right, bottom


def crop_square(
    image: Image.Image, box: Sequence[float], side: float, shift: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    """Crop a square around a box (left, top, right, bottom in pixels).

    ``side`` and ``shift`` (of the centre) are relative to the longer side of the box. Outside the image its
    border is repeated.
    """
    longer = max(box[2] - box[0], box[3] - box[1])
    half = side * longer / 2
    x, y = (box[0] + box[2]) / 2 + shift[0] * longer, (box[1] + box[3]) / 2 + shift[1] * longer
    edges = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
    pixels = np.asarray(image)
    rows = np.arange(edges[1], max(edges[3], edges[1] + 1)).clip(0, pixels.shape[0] - 1)
    columns = np.arange(edges[0], max(edges[2], edges[0] + 1)).clip(0, pixels.shape[1] - 1)
    return Image.fromarray(pixels[rows][:, columns])
