"""Training of the reader of scenes: a task of the trainer (``task: scene_reader``).

The data are composed scenes with the box of every thing (``examples/pictogram/judges.py`` writes them). Only
the box head is trained, with CenterNet's focal loss on a heatmap of centres (Zhou et al., 2019, equation 1)
and the GIoU loss of boxes near a centre (Rezatofighi et al., 2019). The score threshold is chosen on the
validation scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.data.image_cache import ImageCache
from cogview.data.loader import ImageBatch, ImageLoader
from cogview.errors import CogViewError
from cogview.evaluation.judges.drawing_labels import Label, read_labels
from cogview.evaluation.judges.scene_reader import (
    SceneNetwork,
    SceneReader,
    SceneReaderConfig,
    cell_centres,
    decode_boxes,
)
from cogview.evaluation.judges.spoiling import spoil
from cogview.evaluation.judges.thing_reader import ThingReader
from cogview.evaluation.metrics.scene_rules import Detection, Rules
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, State, Task

SPREAD = 0.12  # standard deviation of a centre's Gaussian on the heatmap, relative to the box's shorter side
NEAR = 0.4  # cells with at least this value of a Gaussian learn its box
GRID = 40  # number of steps in the search for the threshold


class SceneReaderRecipe(Recipe):
    """Recipe of a run; ``data`` is an image cache with labels and boxes, ``reader`` a reader of things.

    ``width``: of the head; ``box``: weight of the box loss, relative to the loss of the centres.
    """

    task: Literal["scene_reader"]
    data: Path
    reader: Path
    width: int = Field(96, ge=8, le=1024)
    box: float = Field(1.0, ge=0)
    validation: str = "val"
    validation_images: int = Field(200, ge=1)


class SceneReaderTask(Task):
    """Trains the head of a :class:`SceneReader`; see the module's docstring."""

    recipe_class: ClassVar[type[Recipe]] = SceneReaderRecipe
    name: ClassVar[str] = "scene_reader"
    parallel: ClassVar[tuple[str, ...]] = ("ddp",)
    unit = "images"
    recipe: SceneReaderRecipe

    @cached_property
    def cache(self) -> ImageCache:
        """The images, opened at first use."""
        return ImageCache(self.recipe.data)

    @cached_property
    def labels(self) -> list[Label]:
        """The labels of all images; CogViewError if a thing has no box."""
        labels = read_labels(self.cache)
        missing = next((label.key for label in labels for thing in label.things if thing.box is None), None)
        if missing is not None:
            raise CogViewError(f"{self.recipe.data}: {missing} has a thing without a box")
        return labels

    @cached_property
    def boxes(self) -> list[Tensor]:
        """The boxes (n, 4) of each image, in fractions of it."""
        return [torch.tensor([thing.box for thing in label.things]).view(-1, 4) for label in self.labels]

    def build(self) -> nn.Module:
        things = ThingReader.from_directory(self.recipe.reader)
        model = SceneNetwork(SceneReaderConfig(things=things.config, width=self.recipe.width))
        model.things.load_state_dict(things.state_dict())
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the head."""
        return ((name, p) for name, p in model.named_parameters() if name.startswith("head."))

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[ImageBatch, State]]:
        """Batches of scenes (batch, 3, side, side) uint8 of split "train"."""
        recipe = self.recipe
        return iter(
            ImageLoader(self.cache, recipe.batch_size, seed=recipe.seed, rank=rank, world=world, state=state)
        )

    def loss_weights(self, batch: ImageBatch) -> dict[str, float]:
        """The number of images of this rank."""
        return {"loss": float(len(batch["items"]))}

    def loss(
        self, model: nn.Module, batch: ImageBatch, step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        network = cast(SceneNetwork, model)
        network.things.eval()
        size = network.config.things.size
        with torch.autocast(batch["images"].device.type, enabled=False):
            images = F.interpolate(
                batch["images"].float() / 255, (size, size), mode="bilinear", antialias=True
            )
            images = spoil(images, zoom=0).contiguous(memory_format=torch.channels_last)
        outputs = network(images)
        boxes = [self.boxes[item] for item in batch["items"] or [0]]
        centre_loss, box_loss = detection_loss(outputs.float(), boxes)
        total = centre_loss + self.recipe.box * box_loss
        return total, {"centres": centre_loss.detach(), "boxes": box_loss.detach()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The share of scenes in which exactly the right things are detected, at the best threshold.

        The threshold is stored in the network's configuration.
        """
        split, known = self.recipe.validation, self.cache.splits
        items = self.cache.select([split] if split in known else [])[: self.recipe.validation_images]
        if not len(items):
            return {}
        network = cast(SceneNetwork, model)
        detections = SceneReader(network).read(self.cache.pixels[items])
        expected = [Counter(thing.thing for thing in self.labels[item].things) for item in items]
        threshold, exact = best_threshold(detections, expected)
        facts: dict[str, Any] = {"val_exact": round(exact, 4), "val_pictures": len(items)}
        rules = Rules(found=threshold, counted=threshold)
        network.config = network.config.model_copy(update={"rules": rules, "facts": facts})
        return {"exact": exact, "threshold": threshold}

    def export(self, model: nn.Module, directory: Path) -> None:
        SceneReader(cast(SceneNetwork, model)).save(directory)


def best_threshold(
    detections: Sequence[Sequence[Detection]], expected: Sequence[Counter[str]]
) -> tuple[float, float]:
    """The score threshold at which most images have exactly the expected things, and the share of these."""
    shares = []
    for step in range(1, GRID):
        kept = [Counter(d.thing for d in of_image if d.score >= step / GRID) for of_image in detections]
        exact = sum(a == b for a, b in zip(kept, expected, strict=True))
        shares.append((exact / len(expected), step / GRID))
    best = max(share for share, _ in shares)
    reaching = [threshold for share, threshold in shares if share == best]
    return reaching[len(reaching) // 2], best


def detection_loss(outputs: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Focal loss of the centres per thing, and mean 1 - GIoU of boxes near a centre; maps (b, 5, H, W)."""
    pairs = (targets(of_image.to(outputs), *outputs.shape[-2:]) for of_image in boxes)
    heatmap, target_boxes = map(torch.stack, zip(*pairs, strict=True))
    count = max(1, sum(len(of_image) for of_image in boxes))
    scores = outputs[:, 0].float().sigmoid().clamp(1e-5, 1 - 1e-5)
    positive = heatmap == 1
    positives = ((1 - scores) ** 2 * scores.log())[positive].sum()
    negatives = ((1 - heatmap) ** 4 * scores**2 * (1 - scores).log())[~positive].sum()
    near = heatmap * (heatmap >= NEAR)
    box_loss = 1 - giou(decode_boxes(outputs[:, 1:].float()), target_boxes)
    return -(positives + negatives) / count, (near * box_loss).sum() / near.sum().clamp(min=1)


def targets(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The heatmap (H, W), 1 in the cells of centres, and the box nearest to each cell (4, H, W)."""
    if not len(boxes):
        return boxes.new_zeros(height, width), boxes.new_zeros(4, height, width)
    size = boxes[:, 2:] - boxes[:, :2]
    cells = boxes.new_tensor([width, height])
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 * cells).long().clamp(min=0)
    centres = (torch.minimum(centres, cells.long() - 1) + 0.5) / cells
    distances = (cell_centres(height, width).to(boxes)[None] - centres[:, :, None, None]).square().sum(1)
    spread = (SPREAD * size.min(1).values).clamp(min=0.5 / max(height, width))
    gaussians = (-distances / (2 * spread[:, None, None] ** 2)).exp()
    heatmap, nearest = gaussians.max(0)
    return heatmap, boxes[nearest].permute(2, 0, 1)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalized intersection over union of boxes (b, 4, H, W), as (b, H, W)."""
    (a, b), (c, d) = ((box[:, :2], box[:, 2:]) for box in (first, second))
    intersection = (torch.minimum(b, d) - torch.maximum(a, c)).clamp(min=0).prod(1)
    union = (b - a).prod(1) + (d - c).prod(1) - intersection
    hull = (torch.maximum(b, d) - torch.minimum(a, c)).prod(1)
    values: Tensor = intersection / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
    return values
