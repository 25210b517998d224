"""Training of the alignment scorer: a task of the trainer (``task: alignment_scorer``).

InfoNCE over real images and their captions in all languages. Every batch is compared with itself, images
with texts and texts with images (Radford et al., 2021). Texts that are true of several images of a batch
("red apple", drawn in five styles) count as right for each of them. Every other batch is of one source only,
so that the scorer has to distinguish avatars from avatars and not from flags. Images are spoiled a little
as the attribute classifier's are (``classifier_training.py``), so that soft ones are read too. Every seed is
fixed: equal data and threads give equal weights.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from cogview.checkpoints.bundle import ModelBundle
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.evaluation.judges.captioned import Captioned, read_captioned
from cogview.evaluation.judges.classifier_training import spoil
from cogview.evaluation.judges.fitting import fit, judge_recipe
from cogview.evaluation.judges.scorer import DualEncoder, ScorerConfig
from cogview.evaluation.plans import ScorerTraining
from cogview.tokenizers.text import TextTokenizer
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, State, Task

Progress = Callable[[str, int, int], None]
MOST_SHARP = math.log(100.0)


class AlignmentScorerRecipe(Recipe):
    """A run: ``data`` are images with captions, of which ``limit`` of a split are used (None: all).

    text: a family, whose text tokenizer is used, or a SentencePiece file; size: side of the images it
    reads, in pixels.
    """

    task: Literal["alignment_scorer"]
    data: Path
    text: str = "pictogram"
    split: str = "train"
    limit: int | None = Field(None, ge=4)
    size: int = Field(72, ge=16)
    spoil: bool = True
    device: Literal["cpu"] = "cpu"


class AlignmentScorerTask(Task):
    """Trains an :class:`DualEncoder`.

    config, text, data: what it is and learns from, where that is not to be found by the recipe.
    """

    recipe_class: ClassVar[type[Recipe]] = AlignmentScorerRecipe
    name: ClassVar[str] = "alignment_scorer"
    parallel: ClassVar[tuple[str, ...]] = ()  # a loss is of a whole batch
    unit = "images"
    recipe: AlignmentScorerRecipe

    def __init__(
        self,
        recipe: AlignmentScorerRecipe,
        text: TextTokenizer | None = None,
        data: Captioned | None = None,
        config: ScorerConfig | None = None,
    ) -> None:
        super().__init__(recipe)
        given = {"text": text, "data": data, "config": config}
        self.__dict__.update({name: value for name, value in given.items() if value is not None})

    @cached_property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        name = self.recipe.text
        if Path(name).is_file():
            return TextTokenizer.from_file(Path(name))
        return ModelBundle.find(name).text_tokenizer()

    @cached_property
    def config(self) -> ScorerConfig:
        """The scorer's sizes."""
        shape = Preprocessing(size=self.recipe.size, resample="box")
        text = self.text
        return ScorerConfig(pieces=text.pieces, text_tokenizer=text.fingerprint, preprocessing=shape)

    @cached_property
    def data(self) -> Captioned:
        """The training images and their captions."""
        recipe, shape = self.recipe, self.config.preprocessing
        return read_captioned(recipe.data, shape, recipe.split, count=recipe.limit, styled=True)

    def build(self) -> nn.Module:
        """The scorer; CogViewError for fewer images than a batch."""
        if len(self.data) < self.recipe.batch_size:
            raise CogViewError(
                f"{len(self.data)} training pictures are less than one batch of {self.recipe.batch_size}"
            )
        scorer = DualEncoder(self.config, self.text)
        scorer.picture_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return scorer

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[tuple[list[int], list[int]], State]]:
        """Batches of :func:`batches`."""
        first, recipe = (state or {}).get("batch", 0), self.recipe
        found = batches(self.data, None, ScorerTraining(batch=recipe.batch_size, seed=recipe.seed))
        for number, batch in enumerate(itertools.islice(found, first, None), first + 1):
            yield batch, {"batch": number}

    def loss(
        self, model: nn.Module, batch: tuple[list[int], list[int]], step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        scorer, (rows, choices) = cast(DualEncoder, model), batch
        images = torch.from_numpy(self.data.pictures[rows]).permute(0, 3, 1, 2).float() / 255
        texts = [self.data.texts[row][choice] for row, choice in zip(rows, choices, strict=True)]
        seen, read = scorer(spoil(images) if self.recipe.spoil else images, scorer.pieces(texts))
        true = caption_matches(texts, [self.data.texts[row] for row in rows])
        return contrastive_loss(scorer.sharpness.exp() * seen @ read.T, torch.from_numpy(true).T), {}

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        """The sharpness is bounded."""
        with torch.no_grad():
            cast(DualEncoder, model).sharpness.clamp_(max=MOST_SHARP)
        return {}

    def export(self, model: nn.Module, directory: Path) -> None:
        scorer = cast(DualEncoder, model)
        scorer.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        facts = {"pictures": len(self.data), "steps": self.recipe.steps}
        scorer.config = scorer.config.model_copy(update={"facts": facts})
        scorer.save(directory)


def train_scorer(
    config: ScorerConfig, text: TextTokenizer, data: Captioned, training: ScorerTraining
) -> DualEncoder:
    """Train on ``data``.

    Raises:
        CogViewError: fewer images than a batch, or an empty text.
    """
    recipe = _recipe(Path(), training, len(data))
    return cast(DualEncoder, fit(AlignmentScorerTask(recipe, text, data, config)))


def _recipe(place: Path, training: ScorerTraining, count: int, **own: Any) -> AlignmentScorerRecipe:
    """The recipe of ``training`` with ``count`` images."""
    own |= {"data": place, "spoil": training.spoil}
    return judge_recipe(AlignmentScorerRecipe, training, count, clip=1.0, **own)


def batches(
    data: Captioned, steps: int | None, training: ScorerTraining
) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of (rows, which of its texts each); every other one of one source. steps: None for no end."""
    chance = np.random.default_rng(training.seed)
    sources = {
        name: [i for i, own in enumerate(data.sources) if own == name] for name in sorted(set(data.sources))
    }
    large = {name: rows for name, rows in sources.items() if len(rows) >= training.batch}
    shares = np.array([len(rows) for rows in large.values()], dtype=np.float64)
    everything = _Shuffled(range(len(data)), chance)
    own = [_Shuffled(rows, chance) for rows in large.values()]
    for step in itertools.count() if steps is None else range(steps):
        if step % 2 and len(large) > 1:
            rows = own[chance.choice(len(own), p=shares / shares.sum())].take(training.batch)
        else:
            rows = everything.take(training.batch)
        yield rows, [int(chance.integers(len(data.texts[row]))) for row in rows]


class _Shuffled:
    """Rows without repetition, shuffled again when too few are left."""

    def __init__(self, rows: Sequence[int], chance: np.random.Generator) -> None:
        self.rows, self.chance = np.array(rows), chance
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        if len(self.waiting) < count:
            self.waiting = self.chance.permutation(self.rows).tolist()
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


def caption_matches(texts: Sequence[str], own: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """(texts, images): whether a text is among an image's own."""
    places: dict[str, list[int]] = {}
    for column, found in enumerate(own):
        for text in set(found):
            places.setdefault(text, []).append(column)
    table = np.zeros((len(texts), len(own)), dtype=np.bool_)
    for row, text in enumerate(texts):
        table[row, places.get(text, [])] = True
    return table


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """InfoNCE of (images, texts) in both directions; several right answers share the weight equally."""
    wanted = true.to(logits.dtype)
    rows = -(wanted / wanted.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(wanted / wanted.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def train_from_data(
    place: Path,
    text: TextTokenizer,
    training: ScorerTraining,
    size: int = 72,
    split: str = "train",
    limit: int | None = None,
    progress: Progress | None = None,
    run: Path | None = None,
) -> DualEncoder:
    """Train a scorer on the captioned images of a split, read at ``size`` pixels.

    The scorer's ``facts`` hold the settings and the hash of what it was trained on. ``run``: where a training
    that was stopped goes on.

    Raises:
        CogViewError: nothing to read, an image without a caption, fewer images than a batch.
    """
    started, shape = time.monotonic(), Preprocessing(size=size, resample="box")
    data = read_captioned(place, shape, split, count=limit, styled=True, progress=progress)
    own = {"size": size, "split": split, "limit": limit, "text": text.fingerprint}
    recipe = _recipe(place, training, len(data), **own)
    scorer = cast(DualEncoder, fit(AlignmentScorerTask(recipe, text, data), run))
    facts = {**scorer.config.facts, "seconds": round(time.monotonic() - started, 1)}
    facts |= {"data": data_fingerprint(place), "split": split, "limit": limit or 0}
    scorer.config = scorer.config.model_copy(update={"facts": {**training.model_dump(), **facts}})
    return scorer


def data_fingerprint(place: Path) -> str:
    """16 hex digits that change with the data's files."""
    return open_source(place).fingerprint()[:16]


def up_to_date(
    directory: Path, place: Path, training: ScorerTraining, size: int, split: str, limit: int | None
) -> bool:
    """Whether ``directory`` already holds the scorer that these settings and data would give."""
    if not (directory / "model.safetensors").is_file():
        return False
    config = DualEncoder.from_directory(directory).config
    wanted = {**training.model_dump(), "data": data_fingerprint(place), "split": split, "limit": limit or 0}
    same = all(config.facts.get(name) == value for name, value in wanted.items())
    return same and config.preprocessing.size == size
