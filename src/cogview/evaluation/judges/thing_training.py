"""Training of the reader of things: a task of the trainer (``task: thing_reader``).

The data are labelled drawings in all styles (``drawing_labels.py``; ``examples/pictogram/judges.py`` writes
them), degraded to look like generated images (``spoiling.py``). The network starts from its ImageNet weights;
its first blocks are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.data.image_cache import ImageCache
from cogview.data.loader import ImageBatch, ImageLoader
from cogview.evaluation.judges.drawing_labels import read_labels, thing_ids
from cogview.evaluation.judges.spoiling import spoil
from cogview.evaluation.judges.thing_reader import ThingReader, ThingReaderConfig, in_top_k
from cogview.evaluation.metrics.lite0 import Lite0
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, State, Task


class ThingReaderRecipe(Recipe):
    """Recipe of a run; ``data``: a labelled image cache, ``network``: the file of ``cogview import lite0``.

    ``frozen``: this many of the network's 16 blocks keep their weights; ``ceiling``: the split of held-out
    drawings on which the reader's ceiling is measured; ``weights``: sampling weights of the sources.
    """

    task: Literal["thing_reader"]
    data: Path
    network: Path
    frozen: int = Field(11, ge=0, le=16)
    smoothing: float = Field(0.05, ge=0, lt=1)
    weights: dict[str, float] = Field(default_factory=dict)
    validation: str = "val"
    ceiling: str = "test_comp"
    ceiling_source: str = "thing"


class ThingReaderTask(Task):
    """Trains a :class:`ThingReader`; see the module's docstring."""

    recipe_class: ClassVar[type[Recipe]] = ThingReaderRecipe
    name: ClassVar[str] = "thing_reader"
    parallel: ClassVar[tuple[str, ...]] = ("ddp",)
    unit = "images"
    recipe: ThingReaderRecipe

    @cached_property
    def cache(self) -> ImageCache:
        """The images, opened at first use."""
        return ImageCache(self.recipe.data)

    @cached_property
    def things(self) -> tuple[str, ...]:
        """The things of the training images, sorted."""
        trained = self.cache.select(["train"])
        labels = read_labels(self.cache)
        return tuple(sorted({labels[item].things[0].thing for item in trained}))

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """The class of each image of the cache; -1 for unknown things."""
        return thing_ids(read_labels(self.cache), {name: i for i, name in enumerate(self.things)})

    def build(self) -> nn.Module:
        model = ThingReader(ThingReaderConfig(things=self.things, size=self.cache.size))
        trained = model.network.classes
        model.network.load_state_dict(
            {
                **Lite0.from_file(self.recipe.network).state_dict(),
                **{f"classes.{name}": value for name, value in trained.state_dict().items()},
            }
        )
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters but those of the frozen blocks and the stem before them."""
        frozen = [f"network.blocks.{number}." for number in range(self.recipe.frozen)]
        frozen += ["network.stem."] if frozen else []
        for name, parameter in model.named_parameters():
            if not name.startswith(tuple(frozen) or ("-",)):
                yield name, parameter

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[ImageBatch, State]]:
        """Batches of images (batch, 3, size, size) uint8 of split "train"."""
        recipe = self.recipe
        return iter(
            ImageLoader(
                self.cache,
                recipe.batch_size,
                seed=recipe.seed,
                weights=recipe.weights,
                rank=rank,
                world=world,
                state=state,
            )
        )

    def loss_weights(self, batch: ImageBatch) -> dict[str, float]:
        """The number of images of this rank."""
        return {"loss": float(len(batch["items"]))}

    def loss(
        self, model: nn.Module, batch: ImageBatch, step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        reader, frozen = cast(ThingReader, model), self.recipe.frozen
        if frozen:
            reader.network.stem.eval()
            reader.network.blocks[:frozen].eval()
        with torch.autocast(batch["images"].device.type, enabled=False):
            images = spoil(batch["images"].float() / 255).contiguous(memory_format=torch.channels_last)
        logits = reader(images, frozen)
        targets = torch.from_numpy(self.targets[batch["items"] or [0]]).to(logits.device)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.smoothing)
        return loss, {"right": (logits.argmax(1) == targets).float().mean().detach()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Top-1 and top-5 accuracy on validation images and on held-out ones."""
        recipe = self.recipe
        parts = {"val": (recipe.validation, None), "ceiling": (recipe.ceiling, [recipe.ceiling_source])}
        metrics: dict[str, float] = {}
        for name, (split, sources) in parts.items():
            known = split in self.cache.splits and set(sources or ()) <= set(self.cache.sources)
            items = self.cache.select([split], sources) if known else np.zeros(0, np.int64)
            items = items[self.targets[items] >= 0]
            if len(items):
                metrics |= self._accuracy(cast(ThingReader, model), items, name)
        reader = cast(ThingReader, model)
        facts: dict[str, Any] = {**metrics, "steps": recipe.steps, "batch": recipe.batch_size}
        reader.config = reader.config.model_copy(
            update={"facts": facts | {"data": self.cache.fingerprint[:16]}}
        )
        return metrics

    def _accuracy(self, reader: ThingReader, items: NDArray[np.int64], name: str) -> dict[str, float]:
        _, probabilities = reader.read([self.cache.pixels[item] for item in items])
        rates = {"first": 1, "five": 5}
        right = {word: in_top_k(probabilities, self.targets[items], k) for word, k in rates.items()}
        shares = {f"{name}_{word}": round(float(hits.mean()), 4) for word, hits in right.items()}
        return shares | {f"{name}_pictures": float(len(items))}

    def export(self, model: nn.Module, directory: Path) -> None:
        cast(ThingReader, model).save(directory)
