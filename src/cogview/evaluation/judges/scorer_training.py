"""Training of the alignment scorer: a task of the trainer (``task: alignment_scorer``).

InfoNCE over real images and their captions in all languages, within a batch and in both directions (Radford
et al., 2021). A caption that several images of a batch share ("red apple", drawn in five styles) is positive
for each of them. Every other batch is of one source only, so that the scorer learns to distinguish avatars
from avatars and not only from flags. Images are slightly degraded as for the attribute classifier
(``classifier_training.py``), so that the scorer also reads soft images. Every seed is fixed: equal data and
thread counts give equal weights.
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
    """Recipe of a run; ``data`` are captioned images, of which ``limit`` of a split are used (None: all).

    text: a family whose text tokenizer is used, or a SentencePiece file; size: side of the input images, in
    pixels; spoil: degrade training images.
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
    """Trains a :class:`DualEncoder`.

    config, text, data: the network's configuration, text tokenizer and data, instead of the recipe's.
    """

    recipe_class: ClassVar[type[Recipe]] = AlignmentScorerRecipe
    name: ClassVar[str] = "alignment_scorer"
    parallel: ClassVar[tuple[str, ...]] = ()  # the loss needs the whole batch in one process
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
        overrides = {"text": text, "data": data, "config": config}
        self.__dict__.update({name: value for name, value in overrides.items() if value is not None})

    @cached_property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        name = self.recipe.text
        if Path(name).is_file():
            return TextTokenizer.from_file(Path(name))
        return ModelBundle.find(name).text_tokenizer()

    @cached_property
    def config(self) -> ScorerConfig:
        """The scorer's configuration."""
        shape = Preprocessing(size=self.recipe.size, resample="box")
        text = self.text
        return ScorerConfig(pieces=text.pieces, text_tokenizer=text.fingerprint, preprocessing=shape)

    @cached_property
    def data(self) -> Captioned:
        """The training images and their captions."""
        recipe, shape = self.recipe, self.config.preprocessing
        return read_captioned(recipe.data, shape, recipe.split, count=recipe.limit, styled=True)

    def build(self) -> nn.Module:
        """Build the scorer; CogViewError for fewer images than a batch."""
        if len(self.data) < self.recipe.batch_size:
            raise CogViewError(
                f"{len(self.data)} training images are fewer than one batch of {self.recipe.batch_size}"
            )
        scorer = DualEncoder(self.config, self.text)
        scorer.picture_tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return scorer

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[tuple[list[int], list[int]], State]]:
        """Batches of :func:`batches`."""
        first, recipe = (state or {}).get("batch", 0), self.recipe
        infinite = batches(self.data, None, ScorerTraining(batch=recipe.batch_size, seed=recipe.seed))
        for number, batch in enumerate(itertools.islice(infinite, first, None), first + 1):
            yield batch, {"batch": number}

    def loss(
        self, model: nn.Module, batch: tuple[list[int], list[int]], step: int, phase: str
    ) -> tuple[Tensor, Metrics] | None:
        scorer, (rows, choices) = cast(DualEncoder, model), batch
        images = torch.from_numpy(self.data.images[rows]).permute(0, 3, 1, 2).float() / 255
        texts = [self.data.texts[row][choice] for row, choice in zip(rows, choices, strict=True)]
        images = spoil(images) if self.recipe.spoil else images
        image_embeddings, text_embeddings = scorer(images, scorer.text_tokens(texts))
        positives = caption_matches(texts, [self.data.texts[row] for row in rows])
        logits = scorer.sharpness.exp() * image_embeddings @ text_embeddings.T
        return contrastive_loss(logits, torch.from_numpy(positives).T), {}

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        """Clamp the sharpness."""
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
        CogViewError: there are fewer images than a batch, or a text is empty.
    """
    recipe = _recipe(Path(), training, len(data))
    return cast(DualEncoder, fit(AlignmentScorerTask(recipe, text, data, config)))


def _recipe(place: Path, training: ScorerTraining, count: int, **fields: Any) -> AlignmentScorerRecipe:
    """The recipe of ``training`` with ``count`` images."""
    fields |= {"data": place, "spoil": training.spoil}
    return judge_recipe(AlignmentScorerRecipe, training, count, clip=1.0, **fields)


def batches(
    data: Captioned, steps: int | None, training: ScorerTraining
) -> Iterator[tuple[list[int], list[int]]]:
    """``steps`` batches (None: infinite) of rows and the index of the text used for each row.

    Every other batch is of one source.
    """
    rng = np.random.default_rng(training.seed)
    sources = {
        name: [i for i, source in enumerate(data.sources) if source == name]
        for name in sorted(set(data.sources))
    }
    large = {name: rows for name, rows in sources.items() if len(rows) >= training.batch}
    shares = np.array([len(rows) for rows in large.values()], dtype=np.float64)
    all_rows = _Shuffled(range(len(data)), rng)
    by_source = [_Shuffled(rows, rng) for rows in large.values()]
    for step in itertools.count() if steps is None else range(steps):
        if step % 2 and len(large) > 1:
            rows = by_source[rng.choice(len(by_source), p=shares / shares.sum())].take(training.batch)
        else:
            rows = all_rows.take(training.batch)
        yield rows, [int(rng.integers(len(data.texts[row]))) for row in rows]


class _Shuffled:
    """Rows without repetition, shuffled again when too few are left."""

    def __init__(self, rows: Sequence[int], rng: np.random.Generator) -> None:
        self.rows, self.rng = np.array(rows), rng
        self.remaining: list[int] = []

    def take(self, count: int) -> list[int]:
        if len(self.remaining) < count:
            self.remaining = self.rng.permutation(self.rows).tolist()
        taken, self.remaining = self.remaining[:count], self.remaining[count:]
        return taken


def caption_matches(texts: Sequence[str], captions: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Whether a text is one of an image's captions, (texts, images)."""
    columns: dict[str, list[int]] = {}
    for column, of_image in enumerate(captions):
        for text in set(of_image):
            columns.setdefault(text, []).append(column)
    table = np.zeros((len(texts), len(captions)), dtype=np.bool_)
    for row, text in enumerate(texts):
        table[row, columns.get(text, [])] = True
    return table


def contrastive_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """InfoNCE over (images, texts) in both directions; several positives share the weight equally."""
    targets = positives.to(logits.dtype)
    rows = -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(targets / targets.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
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
    """Train a scorer on the captioned images of a split, resized to ``size`` pixels.

    The scorer's ``facts`` hold the settings and the fingerprint of the data. ``run``: the run's directory,
    where an interrupted training resumes.

    Raises:
        CogViewError: there are no images or fewer than a batch, or an image has no caption.
    """
    started, shape = time.monotonic(), Preprocessing(size=size, resample="box")
    data = read_captioned(place, shape, split, count=limit, styled=True, progress=progress)
    fields = {"size": size, "split": split, "limit": limit, "text": text.fingerprint}
    recipe = _recipe(place, training, len(data), **fields)
    scorer = cast(DualEncoder, fit(AlignmentScorerTask(recipe, text, data), run))
    facts = {**scorer.config.facts, "seconds": round(time.monotonic() - started, 1)}
    facts |= {"data": data_fingerprint(place), "split": split, "limit": limit or 0}
    scorer.config = scorer.config.model_copy(update={"facts": {**training.model_dump(), **facts}})
    return scorer


def data_fingerprint(place: Path) -> str:
    """16 hex digits that change with the files of the data."""
    return open_source(place).fingerprint()[:16]


def up_to_date(
    directory: Path, place: Path, training: ScorerTraining, size: int, split: str, limit: int | None
) -> bool:
    """Whether ``directory`` already holds the scorer that these settings and data would give."""
    if not (directory / "model.safetensors").is_file():
        return False
    config = DualEncoder.from_directory(directory).config
    expected = {**training.model_dump(), "data": data_fingerprint(place), "split": split, "limit": limit or 0}
    same = all(config.facts.get(name) == value for name, value in expected.items())
    return same and config.preprocessing.size == size
