"""The reader of scenes: which things an image shows, where, and in which colours.

It works in two steps. A small head without anchors (as CenterNet: Zhou et al., 2019) on three maps of the
reader of things' network finds centres and boxes of things of any kind. Each is then cut out of the whole
image and named by the reader of things; its colour is named from the pixels of its box.
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
LEVELS = ((4, 40), (10, 112), (15, 320))  # last block and width of the maps at strides 8, 16 and 32
CUT = 1.2  # the side of what is cut out for naming, in longer sides of the box
LEAST = 0.05  # the score of a centre that is looked at
TWICE = 0.55  # overlap (intersection over union) above which two boxes are one thing


class SceneReaderConfig(Config):
    """Its reader of things, the width of the head, and the thresholds chosen on held-out scenes."""

    format: Literal[1] = 1
    things: ThingReaderConfig
    width: int = Field(96, ge=8, le=1024)
    rules: Rules = Rules()
    facts: dict[str, str | int | float] = Field(default_factory=dict)


class BoxHead(nn.Module):
    """Maps of the network to one map (b, 5, H / 8, W / 8): a centre's logit, and four distances.

    Distances go from the middle of a cell to the left, top, right and bottom of the box, in parts of the
    image.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([nn.Conv2d(own, width, 1) for _, own in LEVELS])
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.answer = nn.Conv2d(width, 5, 1)
        nn.init.constant_(self.answer.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.narrow[-1](maps[-1])
        for narrow, own in zip(self.narrow[-2::-1], maps[-2::-1], strict=True):
            x = F.relu(narrow(own) + F.interpolate(x, own.shape[-2:], mode="bilinear"))
        found: Tensor = self.answer(self.mix(x))
        return torch.cat([found[:, :1], F.softplus(found[:, 1:])], 1)


class SceneNetwork(nn.Module):
    """A reader of things, whose network is kept as it is, and the head."""

    def __init__(self, config: SceneReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.things = ThingReader(config.things)
        self.head = BoxHead(config.width)

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, size, size) in [0, 1] to the head's map; only the head gets gradients."""
        network, maps = self.things.network, []
        with torch.no_grad():
            x = network.stem((images - network.get_buffer("mean")) / network.get_buffer("std"))
            for number, block in enumerate(network.blocks):
                x = block(x)
                if number in dict(LEVELS):
                    maps.append(x)
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = self.head([own.float() for own in maps])
        return found


def cell_centres(height: int, width: int) -> Tensor:
    """The middle (x, y) of every cell of a map in parts of the image, (2, height, width)."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y])


def decode_boxes(distances: Tensor) -> Tensor:
    """Left, top, right, bottom (..., 4, H, W) of the boxes that each cell's distances mean."""
    middle = cell_centres(*distances.shape[-2:]).to(distances.device)
    return torch.cat([middle - distances[..., :2, :, :], middle + distances[..., 2:, :, :]], -3)


@dataclass(frozen=True)
class Found:
    """A box in parts of the image and the score of its centre."""

    box: Box
    score: float


def peaks(answer: Tensor, least: float = LEAST) -> list[Found]:
    """The boxes of one image's map (5, H, W): highest of their 3 x 3 cells, and no box twice."""
    scores = answer[0].sigmoid()
    highest = F.max_pool2d(scores[None], 3, 1, 1)[0]
    rows, columns = torch.nonzero((scores == highest) & (scores >= least), as_tuple=True)
    boxes = decode_boxes(answer[1:]).clamp(0, 1)[:, rows, columns].T.tolist()
    found = [
        Found(tuple(box), score) for box, score in zip(boxes, scores[rows, columns].tolist(), strict=True)
    ]
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -one.score):
        if all(box_iou(one.box, other.box) < TWICE for other in kept):
            kept.append(one)
    return kept


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    wide = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    high = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return wide * high / (areas - wide * high) if areas > wide * high else 0.0


class SceneReader:
    """Reads scenes off images; a :class:`cogview.evaluation.metrics.scene_rules.SceneReader`."""

    def __init__(self, network: SceneNetwork) -> None:
        self.network = network.eval()

    @property
    def config(self) -> SceneReaderConfig:
        """What it was made with, its thresholds and ceiling among it."""
        return self.network.config

    @property
    def rules(self) -> Rules:
        """The thresholds for its scores."""
        return self.config.rules

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the configuration and all weights."""
        return weights.fingerprint(self.config, self.network)

    @torch.no_grad()
    def read(
        self, pictures: NDArray[np.uint8], batch: int = 32, progress: Progress | None = None
    ) -> list[list[Detection]]:
        """The detections in each image (n, side, side, 3), by falling score; boxes in pixels."""
        found: list[list[Detection]] = []
        for first in range(0, len(pictures), batch):
            found += self._read(pictures[first : first + batch])
            if progress:
                progress(len(found), len(pictures))
        return found

    def _read(self, pictures: NDArray[np.uint8]) -> list[list[Detection]]:
        size = self.config.things.size
        device = next(self.network.parameters()).device
        answers = self.network(torch.cat([resized(picture, size) for picture in pictures]).to(device)).cpu()
        side, seen = pictures.shape[1], [peaks(answer.float()) for answer in answers]
        boxes = [[_scaled(one.box, side) for one in own] for own in seen]
        cuts = [
            np.asarray(crop_square(Image.fromarray(picture), box, CUT))
            for picture, own in zip(pictures, boxes, strict=True)
            for box in own
        ]
        _, probabilities = self.network.things.read(cuts)
        names, rows = self.config.things.things, iter(probabilities)
        found = []
        for picture, own, scores in zip(pictures, boxes, seen, strict=True):
            detections = []
            for box, one in zip(own, scores, strict=True):
                row = next(rows)
                best = int(row.argmax())
                score = one.score * float(row[best])
                detections.append(Detection(names[best], box, score, box_colour(picture, box)))
            found.append(sorted(detections, key=lambda one: -one.score))
        return found

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        weights.save(self.config, self.network, directory)

    @classmethod
    def from_directory(cls, directory: Path) -> SceneReader:
        """Read what :meth:`save` wrote; CogViewError where it is missing, damaged or another network."""
        weights.require(directory, WHAT, VERB)
        config = read_json(SceneReaderConfig, directory / weights.CONFIG)
        return cls(weights.load(lambda: SceneNetwork(config), directory, WHAT))


def _scaled(box: Box, side: float) -> Box:
    left, top, right, bottom = (edge * side for edge in box)
    return left, top, right, bottom


def crop_square(
    picture: Image.Image, box: Sequence[float], side: float, shift: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    """A square around a box (left, top, right, bottom in pixels), ``side`` times as long as its longer side.

    ``shift`` moves its middle, in longer sides. Outside the image its border is repeated.
    """
    long = max(box[2] - box[0], box[3] - box[1])
    half = side * long / 2
    x, y = (box[0] + box[2]) / 2 + shift[0] * long, (box[1] + box[3]) / 2 + shift[1] * long
    edges = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
    pixels = np.asarray(picture)
    rows = np.arange(edges[1], max(edges[3], edges[1] + 1)).clip(0, pixels.shape[0] - 1)
    columns = np.arange(edges[0], max(edges[2], edges[0] + 1)).clip(0, pixels.shape[1] - 1)
    return Image.fromarray(pixels[rows][:, columns])
