"""Training of the reader of scenes: a task of the trainer (``task: scene_reader``).

The data are composed scenes with the box of every thing (``examples/pictogram/judges.py`` makes them). Only
the head that finds boxes is trained, by CenterNet's focal loss on a map of centres (Zhou et al., 2019,
equation 1) and the overlap of boxes near a centre (GIoU: Rezatofighi et al., 2019). The thresholds of its
scores are chosen on the validation scenes.
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

SPREAD = 0.12  # standard deviation of a centre's bump on the map, in shorter sides of its box
NEAR = 0.4  # cells with that much of a bump learn its box
GRID = 40  # thresholds tried


class SceneReaderRecipe(Recipe):
    """A run: ``data`` is an image cache with labels and boxes, ``reader`` a reader of things.

    ``width``: of the head; ``box``: the weight of the boxes' loss beside that of the centres.
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
        """What each image shows; CogViewError where a thing has no box."""
        found = read_labels(self.cache)
        bare = next((label.key for label in found for one in label.things if one.box is None), None)
        if bare is not None:
            raise CogViewError(f"{self.recipe.data}: {bare} has a thing without a box")
        return found

    @cached_property
    def boxes(self) -> list[Tensor]:
        """The boxes (n, 4) in each image, in parts of it."""
        return [torch.tensor([one.box for one in label.things]).view(-1, 4) for label in self.labels]

    def build(self) -> nn.Module:
        things = ThingReader.from_directory(self.recipe.reader)
        model = SceneNetwork(SceneReaderConfig(things=things.config, width=self.recipe.width))
        model.things.load_state_dict(things.state_dict())
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The head's."""
        return ((name, own) for name, own in model.named_parameters() if name.startswith("head."))

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[ImageBatch, State]]:
        """Batches of scenes (batch, 3, side, side) uint8 of split "train"."""
        recipe = self.recipe
        return iter(
            ImageLoader(self.cache, recipe.batch_size, seed=recipe.seed, rank=rank, world=world, state=state)
        )

    def loss_weights(self, batch: ImageBatch) -> dict[str, float]:
        """By the images that are this rank's own."""
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
        answers = network(images)
        boxes = [self.boxes[item] for item in batch["items"] or [0]]
        centres, overlaps = detection_loss(answers.float(), boxes)
        total = centres + self.recipe.box * overlaps
        return total, {"centres": centres.detach(), "boxes": overlaps.detach()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Scenes of which exactly the right things are found, at the best threshold; it becomes the rules."""
        split, known = self.recipe.validation, self.cache.splits
        items = self.cache.select([split] if split in known else [])[: self.recipe.validation_images]
        if not len(items):
            return {}
        network = cast(SceneNetwork, model)
        read = SceneReader(network).read(self.cache.pixels[items])
        shown = [Counter(one.thing for one in self.labels[item].things) for item in items]
        threshold, exact = best_threshold(read, shown)
        facts: dict[str, Any] = {"val_exact": round(exact, 4), "val_pictures": len(items)}
        rules = Rules(found=threshold, counted=threshold)
        network.config = network.config.model_copy(update={"rules": rules, "facts": facts})
        return {"exact": exact, "threshold": threshold}

    def export(self, model: nn.Module, directory: Path) -> None:
        SceneReader(cast(SceneNetwork, model)).save(directory)


def best_threshold(read: Sequence[Sequence[Detection]], shown: Sequence[Counter[str]]) -> tuple[float, float]:
    """The score at which most images have exactly the things that are shown, and their share."""
    shares = []
    for step in range(1, GRID):
        kept = [Counter(one.thing for one in own if one.score >= step / GRID) for own in read]
        shares.append((sum(a == b for a, b in zip(kept, shown, strict=True)) / len(shown), step / GRID))
    best = max(share for share, _ in shares)
    reaching = [threshold for share, threshold in shares if share == best]
    return reaching[len(reaching) // 2], best


def detection_loss(answers: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The focal loss of the centres and 1 - GIoU of the boxes, of maps (b, 5, H, W), each a thing's mean."""
    heat, box = zip(*(targets(own.to(answers), *answers.shape[-2:]) for own in boxes), strict=True)
    bumps, wanted = torch.stack(heat), torch.stack(box)
    count = max(1, sum(len(own) for own in boxes))
    scores = answers[:, 0].float().sigmoid().clamp(1e-5, 1 - 1e-5)
    at = bumps == 1
    right = ((1 - scores) ** 2 * scores.log())[at].sum()
    wrong = ((1 - bumps) ** 4 * scores**2 * (1 - scores).log())[~at].sum()
    near = bumps * (bumps >= NEAR)
    apart = 1 - giou(decode_boxes(answers[:, 1:].float()), wanted)
    return -(right + wrong) / count, (near * apart).sum() / near.sum().clamp(min=1)


def targets(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The bumps (H, W), 1 in the cells of centres, and the box that is nearest to each cell (4, H, W)."""
    if not len(boxes):
        return boxes.new_zeros(height, width), boxes.new_zeros(4, height, width)
    size = boxes[:, 2:] - boxes[:, :2]
    cells = boxes.new_tensor([width, height])
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 * cells).long().clamp(min=0)
    centres = (torch.minimum(centres, cells.long() - 1) + 0.5) / cells
    away = (cell_centres(height, width).to(boxes)[None] - centres[:, :, None, None]).square().sum(1)
    spread = (SPREAD * size.min(1).values).clamp(min=0.5 / max(height, width))
    bumps = (-away / (2 * spread[:, None, None] ** 2)).exp()
    highest, owner = bumps.max(0)
    return highest, boxes[owner].permute(2, 0, 1)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union of boxes (b, 4, H, W), (b, H, W)."""
    (a, b), (c, d) = ((box[:, :2], box[:, 2:]) for box in (first, second))
    inside = (torch.minimum(b, d) - torch.maximum(a, c)).clamp(min=0).prod(1)
    union = (b - a).prod(1) + (d - c).prod(1) - inside
    around = (torch.maximum(b, d) - torch.minimum(a, c)).prod(1)
    found: Tensor = inside / union.clamp(min=1e-6) - (around - union) / around.clamp(min=1e-6)
    return found
