"""Training a CogLM on token shards (CogView2, sections 3.1 and 3.2).

Every sample is given one of the strategies by chance: ``drawing`` (text to image), ``captioning`` (patches
of the image, and the text after it) or ``editing`` (patches of the image after the text, which is what
``cogview edit`` asks; the paper has the first two, half and half). Of an item's captions one is drawn, in one
of its languages, and [BOE] or [BOC] says in which.
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
    """The sequences but for what the data decide (:class:`~cogview.sequences.CogLMFormat` explains the
    fields).

    controls: the vocabulary's control tokens; multiple: what its rows are rounded up to.
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
    """How often each strategy is drawn, relative to the others; the paper: drawing and captioning, 1 : 1.

    regions: ``paper`` masks patches until ``share`` of the image is covered; ``released`` as the published
    script, whose share of sequences with captions is 0.3. edited: what ``editing`` hides: ``patches`` as
    well, or ``boxes``, one to three rectangles, which leave more of the image around them.
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
            raise ValueError("drawing, captioning and editing are all 0: nothing would be learnt")
        if self.share != SHARE and (self.regions == "released" or not self.captioning + self.editing):
            raise ValueError("share is of regions paper, in captioning and editing; nothing here reads it")
        if self.edited != "patches" and not self.editing:
            raise ValueError(f"edited {self.edited} is of editing, which is 0")
        return self

    def choose(self, rng: np.random.Generator) -> str:
        """One of the strategies."""
        chances = np.array([self.drawing, self.captioning, self.editing])
        return ("drawing", "captioning", "editing")[int(rng.choice(3, p=chances / chances.sum()))]


class CogLMRecipe(Recipe):
    """A recipe for a CogLM. ``data``, ``split``, ``sources``, ``mixture``, ``softmax``, ``model``,
    ``cell_weights``, ``validation`` and ``samples`` are as in the transformer's recipe. ``init`` is a CogLM,
    or a text-to-image model with the same tokenizers, whose weights are carried over (:mod:`transfer`)."""

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
            raise ValueError("padding_rows take part in the full softmax only; set softmax to full")
        return self


Draw = tuple[str, Any]  # a strategy, and the patches that are hidden (None: no strategy of patches)


def draw(form: CogLMFormat, strategies: Strategies, rng: np.random.Generator) -> Draw:
    """The strategy and the patches of one sequence, by chance."""
    chosen = strategies.choose(rng)
    if chosen == "drawing":
        return chosen, None
    if chosen == "editing" and strategies.edited == "boxes":
        return chosen, sample_boxes(form.grid, rng)
    if strategies.regions == "released":
        return chosen, released_mask(form.grid, rng)
    return chosen, sample_mask(form.grid, rng, strategies.share)


def make_sequence(
    form: CogLMFormat,
    text: list[int],
    codes: np.ndarray[Any, np.dtype[np.int64]],
    language: str | None,
    drawn: Draw,
) -> CogLMSequence:
    """One training sequence."""
    chosen, mask = drawn
    if chosen == "drawing":
        return form.drawing(text, codes)
    if chosen == "editing":
        return form.editing(text, codes, mask)
    return form.captioning(text, codes, mask, language if language in form.languages else None)


def make_batch(
    form: CogLMFormat,
    strategies: Strategies,
    batch: TokenBatch,
    rng: np.random.Generator,
    multiple: int = 1,
    *,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Tensor]:
    """``inputs``, ``positions``, ``targets``, ``order``, ``streams`` and ``weights`` (batch, length), and the
    flat places of the loss, ``image_at`` and ``text_at``.

    ``rank`` of ``world`` has every ``world``-th row of a batch, and what was drawn for those.
    """
    last = rank + world * (len(batch["texts"]) - 1)
    draws = [draw(form, strategies, rng) for _ in range(last + 1)][rank::world]
    rows = zip(batch["texts"], batch["codes"].numpy(), batch["languages"], draws, strict=True)
    pad = form.begin_id
    made = [make_sequence(form, *row) for row in rows]
    whole = collate(made, pad, multiple)
    if not batch["items"]:  # another rank's row, to stand in
        whole["weights"] = torch.zeros_like(whole["weights"])
    image_at, text_at = split_targets(whole["targets"], whole["weights"], form.vocabulary)
    return {**whole, "image_at": image_at, "text_at": text_at}


def weigh_cells(batch: dict[str, Tensor], cells: Tensor, first: int) -> dict[str, Tensor]:
    """The batch with the weight of every code multiplied by that of its place in the image.

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
        """The sequences with the data's codes, text tokens and grid, and the recipe's control tokens."""
        given, index = self.recipe.format, self.shards.index
        vocabulary = Vocabulary(
            image_codes=index.vocabulary.image_codes,
            text_pieces=index.vocabulary.text_pieces,
            controls=given.controls,
            multiple=given.multiple,
            languages=index.vocabulary.languages,
        )
        own = given.model_dump(exclude={"controls", "multiple"})
        return CogLMFormat(vocabulary=vocabulary, grid=index.grid, **own)

    def build(self) -> nn.Module:
        self.cells, self.sampler  # noqa: B018  (what does not fit is found before training, not after)
        return Transformer(self.config())

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load the model in ``init``, or carry over what a model that only draws has learnt."""
        old = of_type(self.start.sequences, SequenceFormat)
        if old is None:
            load_weights(model, self.start.directory)
            return
        drawer = Transformer.from_directory(self.start.directory)
        model.load_state_dict(expand_weights(drawer.state_dict(), model.state_dict(), old, self.format))

    def first_losses(self, model: nn.Module) -> FirstLosses:
        """As of any transformer; from one that only draws, the image's losses where this one draws too."""
        old = of_type(self.start.sequences, SequenceFormat)
        if old is None:
            return super().first_losses(model)
        drawer, still = copy(self), TransformerTask(cast(Any, self.recipe))
        drawer.recipe = self.recipe.model_copy(update={"strategies": Strategies(drawing=1, captioning=0)})
        still.__dict__["format"] = old
        batch = self._first_items(min(self.format.text_limit, old.text_limit))
        start = drawer._parts(model, batch)
        own = still._parts(Transformer.from_directory(self.start.directory), batch)
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
            whose = {"rank": rank, "world": world}
            made = make_batch(self.format, recipe.strategies, batch, rng, recipe.pad_multiple, **whose)
            first = self.format.begin_position + 1
            yield made if self.cells is None else weigh_cells(made, self.cells, first), after

    def _visibility(self, batch: Any, layers: int, training: bool) -> Visibility:
        return MaskRegions(batch["order"], batch["streams"])

    def _there(self, batch: Any) -> Tensor:
        there: Tensor = batch["order"] >= 0
        return there

    @cached_property
    def validation(self) -> list[dict[str, Tensor]]:
        """The validation batches, the same at every evaluation."""
        asked = self.recipe.validation
        chosen = self.shards.select((asked.split,), self.recipe.sources)
        if asked.split not in self.shards.splits or not len(chosen):
            return []
        mixture = self.recipe.mixture.model_copy(update={"weights": {}})
        rng, found, items = np.random.default_rng(VALIDATION_SEED), list[dict[str, Tensor]](), 0
        for batch, _ in self._loader(
            VALIDATION_SEED, asked.split, asked.batch_size, mixture=mixture, epochs=1
        ):
            if items >= asked.items:
                break
            found.append(make_batch(self.format, self.recipe.strategies, batch, rng))
            items += len(batch["texts"])
        return found

    @cached_property
    def sampler(self) -> Sampler | None:
        """Draws the recipe's ``samples``."""
        asked, index = self.recipe.samples, self.shards.index
        if asked is None:
            return None
        return Sampler(asked, cast(Any, self.format), index.image_tokenizer, index.text_tokenizer)
