"""Training a CogLM on token shards (CogView2, sections 3.1 and 3.2).

A strategy is sampled for every item: ``drawing`` (text to image), ``captioning`` (patches of the image, and
the text after it) or ``editing`` (patches of the image after the text, as used by ``cogview edit``; the paper
has the first two, half and half). One of the item's captions is sampled, and [BOE] or [BOC] indicates its
language.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogview.config import Config
from cogview.data.loader import Mixture, TokenBatch, TokenLoader
from cogview.sequences import CogLMFormat, CogLMSequence, SequenceFormat, of_type
from cogview.sequences.coglm import BEGIN, CHINESE, END, ENGLISH, collate
from cogview.sequences.masks import SHARE, released_mask, sample_boxes, sample_mask
from cogview.training.expand import expand_weights
from cogview.training.first_loss import FirstLosses
from cogview.training.objective import Softmax, split_targets
from cogview.training.recipe import Recipe
from cogview.training.sample_sheet import Sampler, Samples
from cogview.training.task import State, load_weights
from cogview.training.tasks.transformer import VALIDATION_SEED, TransformerTask
from cogview.training.tasks.transformer_recipe import Architecture, Validation
from cogview.transformer.attention import MaskRegions, Visibility
from cogview.transformer.model import Transformer
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary


class CogLMFormatRecipe(Config):
    """The sequence format except what the data determine (:class:`~cogview.sequences.CogLMFormat` explains
    the fields).

    controls: the vocabulary's control tokens; multiple: its number of rows is rounded up to a multiple.
    """

    text_slots: int = Field(64, ge=2)
    image_start: int = Field(0, ge=0)
    controls: tuple[str, ...] = (*COGVIEW2_CONTROLS, END)
    multiple: int = Field(128, ge=1)
    begin: str = BEGIN
    languages: dict[str, str] = Field(default_factory=lambda: {"en": ENGLISH, "zh": CHINESE})
    end: str | None = END
    text_weight: float = Field(1.0, ge=0)
    image_weight: float = Field(1.0, ge=0)


class Strategies(Config):
    """Relative frequencies of the strategies; the paper: drawing and captioning, 1 : 1.

    regions: ``paper`` masks patches until ``share`` of the image is covered; ``released`` follows the
    published script, which uses captions in 0.3 of the sequences. edited: the masks of ``editing``:
    ``patches``, or ``boxes``, one to three rectangles, which leave more of the image around them.
    """

    drawing: float = Field(0.5, ge=0)
    captioning: float = Field(0.5, ge=0)
    editing: float = Field(0.0, ge=0)
    share: float = Field(SHARE, gt=0, le=1)
    regions: Literal["paper", "released"] = "paper"
    edited: Literal["patches", "boxes"] = "patches"

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.drawing + self.captioning + self.editing:
            raise ValueError("drawing, captioning and editing are all 0: nothing would be learned")
        if self.share != SHARE and (self.regions == "released" or not self.captioning + self.editing):
            raise ValueError(
                "share is for regions paper, in captioning and editing; it is not used with these settings"
            )
        if self.edited != "patches" and not self.editing:
            raise ValueError(f"edited {self.edited} is for editing, which is 0")
        return self

    def sample(self, rng: np.random.Generator) -> str:
        """Sample a strategy."""
        weights = np.array([self.drawing, self.captioning, self.editing])
        return ("drawing", "captioning", "editing")[int(rng.choice(3, p=weights / weights.sum()))]


class CogLMRecipe(Recipe):
    """A recipe for a CogLM. ``data``, ``split``, ``sources``, ``mixture``, ``softmax``, ``model``,
    ``cell_weights``, ``validation`` and ``samples`` are as in the transformer's recipe. ``init`` is a CogLM,
    or a text-to-image model with the same tokenizers, whose weights are carried over
    (:mod:`cogview.training.expand`)."""

    CHANGEABLE: ClassVar[frozenset[str]] = Recipe.CHANGEABLE | {"validation", "samples"}
    lora: ClassVar[None] = None

    task: Literal["coglm"]
    data: Path
    split: str = "train"
    sources: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    mixture: Mixture = Mixture()
    format: CogLMFormatRecipe = CogLMFormatRecipe()
    strategies: Strategies = Strategies()
    model: Architecture | None = None
    softmax: Softmax = "region"
    padding_rows: bool = False
    pad_multiple: int = Field(1, ge=1)
    validation: Validation = Validation()
    samples: Samples | None = None
    cell_weights: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] | None = None

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if self.init is None and self.model is None:
            raise ValueError("model: missing (there is no init to start from)")
        if self.padding_rows and self.softmax != "full":
            raise ValueError("padding_rows needs the full softmax; set softmax to full")
        return self


MaskedStrategy = tuple[str, Any]  # a strategy and its image mask (None for drawing)


def sample_strategy(format: CogLMFormat, strategies: Strategies, rng: np.random.Generator) -> MaskedStrategy:
    """Sample the strategy and the mask of one sequence."""
    strategy = strategies.sample(rng)
    if strategy == "drawing":
        return strategy, None
    if strategy == "editing" and strategies.edited == "boxes":
        return strategy, sample_boxes(format.grid, rng)
    if strategies.regions == "released":
        return strategy, released_mask(format.grid, rng)
    return strategy, sample_mask(format.grid, rng, strategies.share)


def make_sequence(
    format: CogLMFormat,
    text: list[int],
    codes: np.ndarray[Any, np.dtype[np.int64]],
    language: str | None,
    sampled: MaskedStrategy,
) -> CogLMSequence:
    """One training sequence."""
    strategy, mask = sampled
    if strategy == "drawing":
        return format.drawing(text, codes)
    if strategy == "editing":
        return format.editing(text, codes, mask)
    return format.captioning(text, codes, mask, language if language in format.languages else None)


def make_batch(
    format: CogLMFormat,
    strategies: Strategies,
    batch: TokenBatch,
    rng: np.random.Generator,
    multiple: int = 1,
    *,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Tensor]:
    """``inputs``, ``positions``, ``targets``, ``order``, ``streams`` and ``weights`` (batch, length), and the
    flat indices of image and text targets with a loss, ``image_at`` and ``text_at``.

    ``rank`` of ``world`` has every ``world``-th row of a batch, and the strategies sampled for these rows.
    """
    last = rank + world * (len(batch["texts"]) - 1)
    sampled = [sample_strategy(format, strategies, rng) for _ in range(last + 1)][rank::world]
    rows = zip(batch["texts"], batch["codes"].numpy(), batch["languages"], sampled, strict=True)
    sequences = collate([make_sequence(format, *row) for row in rows], format.begin_id, multiple)
    if not batch["items"]:  # a substitute row of another rank
        sequences["weights"] = torch.zeros_like(sequences["weights"])
    image_at, text_at = split_targets(sequences["targets"], sequences["weights"], format.vocabulary)
    return {**sequences, "image_at": image_at, "text_at": text_at}


def weigh_cells(batch: dict[str, Tensor], cells: Tensor, first: int) -> dict[str, Tensor]:
    """Multiply the weight of every code by that of its position in the image.

    cells: (rows * columns,); first: position of the first code.
    """
    weights = batch["weights"].flatten().clone()
    places = batch["positions"].flatten()[batch["image_at"] + 1] - first
    weights[batch["image_at"]] *= cells[places]
    return {**batch, "weights": weights.view_as(batch["weights"])}


class CogLMTask(TransformerTask):
    """Trains a transformer as a CogLM; see :class:`CogLMRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = CogLMRecipe
    name: ClassVar[str] = "coglm"
    recipe: CogLMRecipe  # type: ignore[assignment]
    rows_at_once = None

    @cached_property
    def format(self) -> CogLMFormat:  # type: ignore[override]
        """The format with the data's codes, text tokens and grid, and the recipe's control tokens."""
        config, index = self.recipe.format, self.shards.index
        vocabulary = Vocabulary(
            image_codes=index.vocabulary.image_codes,
            text_pieces=index.vocabulary.text_pieces,
            controls=config.controls,
            multiple=config.multiple,
            languages=index.vocabulary.languages,
        )
        fields = config.model_dump(exclude={"controls", "multiple"})
        return CogLMFormat(vocabulary=vocabulary, grid=index.grid, **fields)

    def build(self) -> nn.Module:
        self.cells, self.sampler  # noqa: B018  (so that errors are raised before training)
        return Transformer(self.config())

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load the model in ``init``, or carry over the weights of a text-to-image model."""
        old = of_type(self.start.sequences, SequenceFormat)
        if old is None:
            load_weights(model, self.start.directory)
            return
        text_to_image = Transformer.from_directory(self.start.directory)
        weights = expand_weights(text_to_image.state_dict(), model.state_dict(), old, self.format)
        model.load_state_dict(weights)

    def first_losses(self, model: nn.Module) -> FirstLosses:
        """As for any transformer; for a text-to-image ``init``, only the image loss of drawing."""
        old = of_type(self.start.sequences, SequenceFormat)
        if old is None:
            return super().first_losses(model)
        drawing, init_task = copy(self), TransformerTask(cast(Any, self.recipe))
        drawing.recipe = self.recipe.model_copy(update={"strategies": Strategies(drawing=1, captioning=0)})
        init_task.__dict__["format"] = old
        batch = self._first_items(min(self.format.text_limit, old.text_limit))
        start = drawing._parts(model, batch)
        own = init_task._parts(Transformer.from_directory(self.start.directory), batch)
        return FirstLosses({"image_loss": start["image_loss"]}, {"image_loss": own["image_loss"]}, {})

    def _sequences(self, batch: TokenBatch, multiple: int = 1) -> dict[str, Any]:
        rng = np.random.default_rng(self.recipe.seed)
        return make_batch(self.format, self.recipe.strategies, batch, rng, multiple)

    def _loader(self, seed: int, split: str, batch: int, **more: Any) -> TokenLoader:
        return TokenLoader(
            self.shards,
            batch,
            seed=seed,
            splits=(split,),
            sources=self.recipe.sources,
            text_limit=self.format.text_limit,
            **more,
        )

    def _batches(self, state: State | None, rank: int = 0, world: int = 1) -> TokenLoader:
        recipe = self.recipe
        shared = {"mixture": recipe.mixture, "rank": rank, "world": world, "state": state}
        return self._loader(recipe.seed, recipe.split, recipe.batch_size, **shared)

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[dict[str, Tensor], State]]:
        recipe = self.recipe
        for batch, after in self._batches(state, rank, world):
            rng = np.random.default_rng([recipe.seed, 0, after["epoch"], after["batch"]])
            part = {"rank": rank, "world": world}
            sequences = make_batch(self.format, recipe.strategies, batch, rng, recipe.pad_multiple, **part)
            first = self.format.begin_position + 1
            yield sequences if self.cells is None else weigh_cells(sequences, self.cells, first), after

    def _visibility(self, batch: Any, layers: int, training: bool) -> Visibility:
        return MaskRegions(batch["order"], batch["streams"])

    def _not_padding(self, batch: Any) -> Tensor:
        mask: Tensor = batch["order"] >= 0
        return mask

    @cached_property
    def validation(self) -> list[dict[str, Tensor]]:
        """The validation batches, the same at every evaluation."""
        config = self.recipe.validation
        selected = self.shards.select((config.split,), self.recipe.sources)
        if config.split not in self.shards.splits or not len(selected):
            return []
        mixture = self.recipe.mixture.model_copy(update={"weights": {}})
        rng, batches, items = np.random.default_rng(VALIDATION_SEED), list[dict[str, Tensor]](), 0
        for batch, _ in self._loader(
            VALIDATION_SEED, config.split, config.batch_size, mixture=mixture, epochs=1
        ):
            if items >= config.items:
                break
            batches.append(make_batch(self.format, self.recipe.strategies, batch, rng))
            items += len(batch["texts"])
        return batches

    @cached_property
    def sampler(self) -> Sampler | None:
        """The generator of the recipe's ``samples``."""
        config, index = self.recipe.samples, self.shards.index
        if config is None:
            return None
        return Sampler(config, cast(Any, self.format), index.image_tokenizer, index.text_tokenizer)
