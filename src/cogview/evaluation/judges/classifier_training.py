"""Training of the attribute classifier: a task of the trainer (``task: attribute_classifier``).

The training data are real images of split "train", slightly degraded. Generated images and tokenizer
reconstructions are softer than real ones. So that the classifier judges the content and not the sharpness,
training images are shifted, blurred, compressed, tinted and made noisy, each a little. Every seed is fixed:
equal data and thread counts give equal weights.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import (
    Attribute,
    Avatar,
    corpus_fingerprint,
    find_attributes,
    read_avatars,
    read_images,
)
from cogview.evaluation.judges.classifier import AttributeClassifier, ClassifierConfig
from cogview.evaluation.judges.fitting import fit, judge_recipe
from cogview.evaluation.plans import ClassifierTraining, Rows
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, State, Task


@dataclass(frozen=True)
class LabelledImages:
    """Images (n, size, size, 3) uint8 with their metadata."""

    images: NDArray[np.uint8]
    avatars: Sequence[Avatar]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.avatars)

    def tensor(self, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """The images as float (n, 3, size, size) in [0, 1]."""
        return torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 255


class AttributeClassifierRecipe(Recipe):
    """Recipe of a run; ``data`` is the folder of Parquet files with avatars and their attributes.

    source: only rows of this source, "" for all; rare: attribute values with fewer training images are
    skipped; size: side of the input images, in pixels; spoil: degrade training images.
    """

    task: Literal["attribute_classifier"]
    data: Path
    source: Rows = "dice"
    rare: int = Field(20, ge=1)
    size: int = Field(72, ge=16)
    smoothing: float = Field(0.0, ge=0, lt=1)
    spoil: bool = True
    device: Literal["cpu"] = "cpu"


class AttributeClassifierTask(Task):
    """Trains an :class:`AttributeClassifier`, on images of split "train" only.

    config, data: the network's configuration and training images, instead of those of the recipe's data.
    """

    recipe_class: ClassVar[type[Recipe]] = AttributeClassifierRecipe
    name: ClassVar[str] = "attribute_classifier"
    parallel: ClassVar[tuple[str, ...]] = ()
    unit = "images"
    recipe: AttributeClassifierRecipe

    def __init__(
        self,
        recipe: AttributeClassifierRecipe,
        config: ClassifierConfig | None = None,
        data: LabelledImages | None = None,
    ) -> None:
        super().__init__(recipe)
        self.members: dict[str, list[Avatar]] = {}
        if config is not None and data is not None:
            self.__dict__.update(config=config, data=data)
            return
        avatars = read_avatars(recipe.data, recipe.source)
        self.corpus = corpus_fingerprint(avatars)
        self.members = {split: [a for a in avatars if a.split == split] for split in ("train", "val")}

    @cached_property
    def config(self) -> ClassifierConfig:
        """A configuration with the attributes that captions of split "train" state.

        Raises CogViewError if they state none.
        """
        attributes = find_attributes(self.members["train"], self.recipe.rare)
        if not attributes:
            data = self.recipe.data
            raise CogViewError(f"{data}: no caption of split 'train' states an attribute of the meta column")
        shape = Preprocessing(size=self.recipe.size, resample="box")
        return ClassifierConfig(attributes=attributes, preprocessing=shape)

    @cached_property
    def data(self) -> LabelledImages:
        """The training images."""
        return self._load("train")

    def _load(self, split: str) -> LabelledImages:
        return load_labelled(self.recipe.data, self.members[split], self.config.preprocessing)

    @cached_property
    def labels(self) -> dict[str, dict[str, Tensor]]:
        """The class of every image, by style and attribute."""
        styles = dict.fromkeys(attribute.style for attribute in self.config.attributes)
        return {style: _labels(self.config.of_style(style), self.data.avatars) for style in styles}

    def build(self) -> nn.Module:
        """Build the network; CogViewError for an image of another split, or fewer images than a batch."""
        avatars, batch = self.data.avatars, self.recipe.batch_size
        foreign = next((avatar.key for avatar in avatars if avatar.split != "train"), None)
        if foreign is not None:
            raise CogViewError(
                f"the classifier may only be trained on split 'train', but {foreign!r} is not in it"
            )
        if len(avatars) < batch:
            raise CogViewError(f"{len(avatars)} training images are fewer than one batch of {batch}")
        return AttributeClassifier(self.config)

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[list[int], State]]:
        """Batches of row indices, shuffled again in each epoch."""
        first = (state or {}).get("batch", 0)
        batches = _batches(len(self.data.avatars), self.recipe.batch_size, self.recipe.seed)
        for number, rows in enumerate(itertools.islice(batches, first, None), first + 1):
            yield rows, {"batch": number}

    def loss(
        self, model: nn.Module, batch: list[int], step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        """Mean cross-entropy over all labels of the batch, equally weighted."""
        images = self.data.tensor(batch)
        if self.recipe.spoil:
            images = spoil(images)
        styles = [self.data.avatars[row].style for row in batch]
        by_style = model(images.contiguous(memory_format=torch.channels_last), styles)
        index, smoothing = torch.tensor(batch), self.recipe.smoothing
        total, count = torch.zeros(()), 0
        for style, (rows, logits) in by_style.items():
            for name, values in logits.items():
                labels = self.labels[style][name][index[rows]]
                total = total + F.cross_entropy(
                    values, labels, reduction="sum", ignore_index=-100, label_smoothing=smoothing
                )
                count += int((labels >= 0).sum())
        return total / max(1, count), {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The accuracy over all labels of real images of split "val", if there are any."""
        reader, recipe = cast(AttributeClassifier, model), self.recipe
        facts: dict[str, Any] = {"pictures": len(self.data.avatars), "steps": recipe.steps}
        metrics: dict[str, float] = {}
        if self.members:
            facts |= {"corpus": self.corpus, "source": recipe.source or "", "rare": recipe.rare}
        if self.members.get("val"):
            held_out = self._load("val")
            metrics = {"val_accuracy": round(accuracy(reader, held_out), 4)}
            facts |= {"val_pictures": len(held_out.avatars), **metrics}
        reader.config = reader.config.model_copy(update={"facts": facts})
        return metrics

    def export(self, model: nn.Module, directory: Path) -> None:
        cast(AttributeClassifier, model).save(directory)


def train_reader(
    config: ClassifierConfig, data: LabelledImages, training: ClassifierTraining
) -> AttributeClassifier:
    """Train on ``data``, which must be of split "train" only.

    Raises:
        CogViewError: an image is of another split, or there are fewer images than a batch.
    """
    recipe = _recipe(Path(), training, len(data.avatars))
    return cast(AttributeClassifier, fit(AttributeClassifierTask(recipe, config, data)))


def train_from_corpus(
    corpus: Path,
    training: ClassifierTraining,
    size: int = 72,
    source: str | None = "dice",
    rare: int = 20,
    run: Path | None = None,
) -> AttributeClassifier:
    """Find the attributes that captions of split "train" state, and train a classifier of them.

    The classifier's ``facts`` hold the settings, the corpus's fingerprint, and the accuracy on split "val" if
    there is one. ``run``: the run's directory, where an interrupted training resumes.

    Raises:
        CogViewError: the corpus cannot be read (see :func:`read_avatars`) or its captions state no attribute.
    """
    started, fields = time.monotonic(), {"size": size, "source": source, "rare": rare}
    count = sum(avatar.split == "train" for avatar in read_avatars(corpus, source))
    task = AttributeClassifierTask(_recipe(corpus, training, count, **fields))
    reader = cast(AttributeClassifier, fit(task, run))
    facts = {**reader.config.facts, "seconds": round(time.monotonic() - started, 1)}
    reader.config = reader.config.model_copy(update={"facts": {**training.model_dump(), **facts}})
    return reader


def _recipe(
    corpus: Path, training: ClassifierTraining, count: int, **fields: Any
) -> AttributeClassifierRecipe:
    """The recipe of ``training`` with ``count`` images."""
    fields |= {"data": corpus, "smoothing": training.smoothing, "spoil": training.spoil}
    return judge_recipe(AttributeClassifierRecipe, training, count, clip=5.0, **fields)


def _batches(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Infinite batches of row indices, shuffled again when too few are left for a batch."""
    generator = torch.Generator().manual_seed(seed)
    remaining: list[int] = []
    while True:
        if len(remaining) < batch:
            remaining = torch.randperm(count, generator=generator).tolist()
        yield remaining[:batch]
        remaining = remaining[batch:]


def _labels(attributes: Sequence[Attribute], avatars: Sequence[Avatar]) -> dict[str, Tensor]:
    """The class of every avatar, by attribute; -100 (ignored by the loss) for other styles and values."""
    by_attribute: dict[str, Tensor] = {}
    for attribute in attributes:
        labels = [attribute.label(a) if a.style == attribute.style else None for a in avatars]
        by_attribute[attribute.name] = torch.tensor([-100 if label is None else label for label in labels])
    return by_attribute


def spoil(images: Tensor) -> Tensor:
    """Slightly degraded copies of images (batch, 3, H, W) in [0, 1]."""
    images = _shift(images, 2)
    parts = torch.tensor_split(images, 4)
    degraded = [parts[0], _blur(parts[1], 0.4), _blur(parts[2], 0.8), _coarse(parts[3])]
    images = torch.cat([part for part in degraded if len(part)])
    batch = len(images)
    gain = 1 + 0.03 * torch.randn(batch, 3, 1, 1)
    noise = torch.randn_like(images) * (0.03 * torch.rand(batch, 1, 1, 1))
    return (images * gain + noise).clamp(0, 1)


def _shift(images: Tensor, limit: int) -> Tensor:
    """Shift each image by up to ``limit`` pixels in both directions, repeating its border."""
    side = images.shape[-1]
    padded = F.pad(images, (limit,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * limit + 1, (len(images), 2)).tolist()
    shifted = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(shifted)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a kernel of 5 x 5 pixels."""
    line = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(images, (2,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(3, 1, 5, 5), groups=3)


def _coarse(images: Tensor) -> Tensor:
    """An imitation of strong JPEG compression: half the colour resolution, weakened luminance detail."""
    grey = images.mean(1, keepdim=True)
    side = tuple(images.shape[-2:])
    colour = F.interpolate(F.avg_pool2d(images - grey, 2), side, mode="bilinear")
    smooth = F.interpolate(F.avg_pool2d(grey, 2), side, mode="nearest")
    return 0.7 * grey + 0.3 * smooth + colour


def load_labelled(corpus: Path, avatars: Sequence[Avatar], preprocessing: Preprocessing) -> LabelledImages:
    """Load the images of ``avatars``, in their order."""
    row = {avatar.key: i for i, avatar in enumerate(avatars)}
    images = np.zeros((len(avatars), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
    for key, image in read_images(corpus, row, preprocessing):
        images[row[key]] = image
    return LabelledImages(images, avatars)


def up_to_date(
    directory: Path, corpus: Path, training: ClassifierTraining, size: int, source: str | None, rare: int = 20
) -> bool:
    """Whether ``directory`` already holds the classifier that these settings and this corpus would give."""
    if not (directory / "model.safetensors").is_file():
        return False
    config = AttributeClassifier.from_directory(directory).config
    expected = {**training.model_dump(), "source": source or "", "rare": rare}
    same = config.image_size == size and all(
        config.facts.get(name) == value for name, value in expected.items()
    )
    return same and config.facts.get("corpus") == corpus_fingerprint(read_avatars(corpus, source))


def accuracy(reader: AttributeClassifier, data: LabelledImages, batch: int = 128) -> float:
    """The share of labels (absence included) that ``reader`` predicts correctly on real images."""
    right = total = 0
    for first in range(0, len(data.avatars), batch):
        avatars = data.avatars[first : first + batch]
        rows = slice(first, first + batch)
        for avatar, predicted in zip(
            avatars, reader.read(data.tensor(rows), [a.style for a in avatars]), strict=True
        ):
            labels = {a.name: a.label(avatar) for a in reader.config.of_style(avatar.style)}
            known = [name for name, label in labels.items() if label is not None]
            right += sum(predicted[name] == labels[name] for name in known)
            total += len(known)
    return right / max(1, total)
