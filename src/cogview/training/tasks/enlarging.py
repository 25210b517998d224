"""Training CogView2's two super-resolution models from a CogLM (section 3.3).

A sample is an item's large image, its small one and one of its captions (``cogview data build
--super-resolution``). *Direct*: all large codes from the small ones at once; only the decoder's attention
layers and the large image's positions are trained. *Iterative*: part of the large codes is hidden, as much
as a ratio drawn for each sample says, and predicted from the others and the text; all weights are trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.data.loader import Mixture, TokenBatch, TokenLoader
from cogview.data.shards import TokenShards
from cogview.errors import CogViewError
from cogview.sequences import of_type
from cogview.sequences.coglm import CogLMFormat
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, upscaler_config
from cogview.training.first_loss import ROWS, FirstLosses
from cogview.training.init_checkpoint import FACTS, InitCheckpoint, find_init_checkpoint
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, State, Task, load_weights
from cogview.training.tasks.transformer import VALIDATION_SEED
from cogview.training.tasks.transformer_recipe import Validation
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

Ratio = Annotated[float, Field(gt=0, le=1)]
COPIED = {"decoder_qkv": "qkv", "decoder_out": "out"}


class EnlargingRecipe(Recipe):
    """What both recipes have. ``init`` is a CogLM (a family, a run or its directory), or a model of the same
    task to go on with (``pictogram-2/direct``). window: rows and columns of the local attention, by default
    9 x 9 or those of the model in init. attention_dropout: another than that of the model in init. ``data``,
    ``split``, ``sources``, ``mixture`` and ``validation`` are as in the transformer's recipe.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = Recipe.CHANGEABLE | {"validation"}

    data: Path
    split: str = "train"
    sources: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    mixture: Mixture = Mixture()
    window: tuple[PositiveInt, PositiveInt] = (9, 9)
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _starts(self) -> Self:
        if self.init is None:
            raise ValueError("init: missing; name the CogLM whose pictures are to be enlarged")
        return self


class DirectRecipe(EnlargingRecipe):
    """Direct super-resolution. across: rows and columns of the window on the small image. trained: the
    decoder's attention alone, as in the paper, or everything."""

    task: Literal["direct_super_resolution"]
    across: tuple[PositiveInt, PositiveInt] = (5, 5)
    trained: Literal["decoder", "all"] = "decoder"


class IterativeRecipe(EnlargingRecipe):
    """Iterative super-resolution. text_slots: how much of a text is read. ratios: of hidden codes, one is
    drawn for each sample. trained: everything, as in the paper, or the attention layers and the large
    positions alone, so that all else can be stored once for this model and the CogLM."""

    task: Literal["iterative_super_resolution"]
    text_slots: PositiveInt = 16
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 0.9)
    trained: Literal["attention", "all"] = "all"


def hide(count: int, length: int, ratios: tuple[float, ...], generator: torch.Generator | None) -> Tensor:
    """bool (count, length): of each row a part, one of ``ratios``, but one at least, at random places."""
    chosen = torch.tensor(ratios)[torch.randint(len(ratios), (count,), generator=generator)]
    ranks = torch.rand(count, length, generator=generator).argsort(1).argsort(1)
    return ranks < (chosen * length).round().clamp(min=1)[:, None]


def grown(state: Mapping[str, Tensor], model: nn.Module, under: Tensor) -> dict[str, Tensor]:
    """A base model's weights as those of a super-resolution model.

    The decoder begins as the encoder; each large code's position as that of the small code under it, whose
    rows in the base's table are ``under`` int64 (codes,).
    """
    found = {}
    for name in model.state_dict():
        *above, module, kind = name.split(".")
        source = ".".join([*above, COPIED.get(module, module), kind])
        if name == "extra_positions.weight":
            found[name] = state["positions.weight"][under].clone()
        else:
            found[name] = state[source].clone() if module in COPIED else state[source]
    return found


class EnlargingTask(Task):
    """What both tasks share."""

    recipe: Any
    all_half: ClassVar[bool] = True
    unit = "pictures"
    spike: ClassVar[tuple[float, float]] = (2.0, 1.0)  # of nats a code

    @cached_property
    def shards(self) -> TokenShards:
        """The data, opened at first use; CogViewError where they have no small images."""
        shards = TokenShards(self.recipe.data)
        shards.context([])  # raises
        return shards

    @cached_property
    def start(self) -> InitCheckpoint:
        """The CogLM; CogViewError where the data have other tokens than it knows."""
        index, start = self.shards.index, find_init_checkpoint(self.recipe.init)
        start.require(index.image_tokenizer, index.text_tokenizer, self.recipe.data)
        return start

    @cached_property
    def base(self) -> tuple[CogLMFormat, TransformerConfig]:
        """The CogLM's sequences and configuration; CogViewError where its images are not the small ones."""
        form, index = of_type(self.start.sequences, CogLMFormat), self.shards.index
        if form is None:
            raise CogViewError(
                f"init: {self.recipe.init} is no CogLM, nor a model of this task; super-resolution "
                "starts from a CogLM (task: coglm)"
            )
        sizes = form.vocabulary.image_codes, form.vocabulary.text_pieces
        found = index.vocabulary.image_codes, index.vocabulary.text_pieces
        if form.grid != index.context_grid or sizes != found:
            raise CogViewError(
                f"{self.recipe.data}: small pictures of {index.context_grid} codes, {found} image codes and "
                f"text pieces; the model in init has {form.grid} and {sizes}"
            )
        return form, self.start.config()

    @property
    def scale(self) -> int:
        """How many times larger a side gets."""
        return self.shards.index.grid[0] // self.base[0].grid[0]

    @property
    def own(self) -> DirectFormat | IterativeFormat | None:
        """What the model in ``init`` reads, where it is of this task; CogViewError where the data differ."""
        index, start = self.shards.index, self.start.sequences
        direct, iterative = of_type(start, DirectFormat), of_type(start, IterativeFormat)
        form = direct or iterative
        if form is None or form.kind != self.name:
            return None
        small = direct.small if direct else index.context_grid
        if (form.grid, small) != (index.grid, index.context_grid):
            raise CogViewError(
                f"{self.recipe.data}: pictures of {index.grid} codes over {index.context_grid}; the "
                f"model in init makes {form.grid} of {small}"
            )
        return form

    @cached_property
    def form(self) -> DirectFormat | IterativeFormat:
        """What the model reads."""
        raise NotImplementedError

    def _given(self, *names: str) -> dict[str, Any]:
        """The recipe's values of fields of the form, those that are left out only where init has none."""
        chosen = [name for name in names if self.own is None or name in self.recipe.model_fields_set]
        return {name: getattr(self.recipe, name) for name in chosen}

    @property
    def text_limit(self) -> int:
        """Longer texts are cut."""
        raise NotImplementedError

    def config(self) -> TransformerConfig:
        """The model's configuration."""
        config = self.start.config() if self.own else upscaler_config(self.base[1], self.form)
        dropout = self.recipe.attention_dropout
        return config if dropout is None else config.model_copy(update={"attention_dropout": dropout})

    def build(self) -> nn.Module:
        return Transformer(self.config())

    def first_losses(self, model: nn.Module) -> FirstLosses | None:
        """From a model of this task the same items' losses in both; None from a CogLM, which has no such."""
        if self.own is None:
            return None
        batch, _ = next(iter(self.loader(None)))
        first: Any = {name: cast(Any, values)[:ROWS] for name, values in batch.items()}
        still = Transformer.from_directory(self.start.directory)
        start, own = self._first_loss(model, self.form, first), self._first_loss(still, self.own, first)
        now, then = self.form.model_dump(), self.own.model_dump()
        return FirstLosses(
            start, own, {name: (now[name], then[name]) for name in now if now[name] != then[name]}
        )

    def _first_loss(
        self, model: nn.Module, form: DirectFormat | IterativeFormat, batch: TokenBatch
    ) -> dict[str, float]:
        """A model's loss on the CPU, the same codes hidden at every call."""
        task, generator = copy(self), torch.Generator().manual_seed(VALIDATION_SEED)
        task.__dict__["form"], task.device = form, torch.device("cpu")
        loss, _ = task._loss(cast(Transformer, model), batch, generator)
        return {"image_loss": float(loss)}

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Begin from the CogLM's weights, or from a model's of this task."""
        if self.own:
            load_weights(model, self.start.directory)
            return
        base, still = self.base[0], Transformer.from_directory(self.start.directory)
        rows, columns = self.form.grid
        numbers = torch.arange(rows * columns)
        small = numbers // columns // self.scale * base.grid[1] + numbers % columns // self.scale
        model.load_state_dict(grown(still.state_dict(), model, base.begin_position + 1 + small))

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[TokenBatch, State]]:
        recipe = self.recipe
        yield from self._loader(
            recipe.seed,
            recipe.split,
            recipe.batch_size,
            mixture=recipe.mixture,
            rank=rank,
            world=world,
            state=state,
        )

    def _loader(self, seed: int, split: str, batch: int, **more: Any) -> TokenLoader:
        return TokenLoader(
            self.shards,
            batch,
            seed=seed,
            splits=(split,),
            sources=self.recipe.sources,
            text_limit=self.text_limit,
            crop=self.shards.index.grid,
            **more,
        )

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics]:
        return self._loss(cast(Transformer, model), batch, None)

    def _loss(
        self, model: Transformer, batch: TokenBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the large codes that are predicted, in nats, and how often the best is right."""
        raise NotImplementedError

    def _entropy(self, model: Transformer, states: Tensor, codes: Tensor) -> tuple[Tensor, Metrics]:
        """states: (n, h) at the places of codes (n,)."""
        logits = model.logits(states, slice(0, self.form.vocabulary.image_codes)).float()
        loss = F.cross_entropy(logits, codes)
        return loss, {"image_loss": loss.detach(), "accuracy": (logits.argmax(-1) == codes).float().mean()}

    def num_items(self, batch: Any) -> int:
        return len(batch["texts"])

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """By images."""
        return {"loss": float(len(batch["items"]))}

    @cached_property
    def validation(self) -> list[TokenBatch]:
        """The validation batches, the same at every evaluation."""
        asked = self.recipe.validation
        chosen = self.shards.select((asked.split,), self.recipe.sources)
        if asked.split not in self.shards.splits or not len(chosen):
            return []
        mixture, found, items = self.recipe.mixture.model_copy(update={"weights": {}}), list[TokenBatch](), 0
        loader = self._loader(VALIDATION_SEED, asked.split, asked.batch_size, mixture=mixture, epochs=1)
        for batch, _ in loader:
            if items >= asked.items:
                break
            found.append(batch)
            items += len(batch["texts"])
        return found

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss in nats a code and accuracy on held-out images, the same codes hidden every time."""
        generator, sums, count = torch.Generator().manual_seed(VALIDATION_SEED), dict[str, float](), 0
        for batch in self.validation:
            moved, size = self.prepare(batch, self.device), len(batch["texts"])
            loss, parts = self._loss(cast(Transformer, model), moved, generator)
            count += size
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * size
        return {name: total / count for name, total in sums.items()}

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """None: the metrics say enough of single codes."""
        return

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is no state."""
        return

    def compile(self, model: nn.Module) -> None:
        """Compile block by block."""
        for block in cast(Transformer, model).blocks:
            block.compile()

    def export(self, model: nn.Module, directory: Path) -> None:
        """The model (fp16) and ``training.json``: what it reads, tokenizers."""
        cast(Transformer, model).save(directory)
        index = self.shards.index
        facts = {
            "recipe": self.recipe.name,
            "data": index.fingerprint,
            "image_tokenizer": index.image_tokenizer,
            "text_tokenizer": index.text_tokenizer,
            "sequences": self.form.model_dump(mode="json"),
        }
        (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


class DirectTask(EnlargingTask):
    """Trains direct super-resolution; see :class:`DirectRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = DirectRecipe
    name: ClassVar[str] = "direct_super_resolution"
    recipe: DirectRecipe

    @cached_property
    def form(self) -> DirectFormat:
        own = cast(DirectFormat | None, self.own)
        form = own or DirectFormat.over(self.base[0], self.scale, self.base[1].max_positions)
        return form.model_copy(update=self._given("window", "across"))

    @property
    def text_limit(self) -> int:
        return self.form.text_limit

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The decoder's projections and the large positions, unless everything is trained."""
        for name, parameter in model.named_parameters():
            own = ".decoder_" in name or name == "extra_positions.weight"
            if own or self.recipe.trained == "all":
                yield name, parameter

    def _loss(
        self, model: Transformer, batch: TokenBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Metrics]:
        made = self.form.inputs(batch["texts"], batch["context"].cpu()).to(self.device)
        states = model(made.ids, made.positions, made.visibility)[:, -self.form.codes :]
        return self._entropy(model, states.flatten(0, 1), batch["codes"].flatten())


class IterativeTask(EnlargingTask):
    """Trains iterative super-resolution; see :class:`IterativeRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = IterativeRecipe
    name: ClassVar[str] = "iterative_super_resolution"
    recipe: IterativeRecipe

    @cached_property
    def form(self) -> IterativeFormat:
        own = cast(IterativeFormat | None, self.own)
        form = own or IterativeFormat.over(self.base[0], self.scale, self.base[1].max_positions)
        return form.model_copy(update=self._given("window", "text_slots"))

    @property
    def text_limit(self) -> int:
        return self.form.text_slots

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything, or what ``trained`` says."""
        for name, parameter in model.named_parameters():
            if self.recipe.trained == "all" or ".attention." in name or name == "extra_positions.weight":
                yield name, parameter

    def _loss(
        self, model: Transformer, batch: TokenBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Metrics]:
        hidden = hide(len(batch["texts"]), self.form.codes, self.recipe.ratios, generator)
        made = self.form.inputs(batch["texts"], batch["codes"].cpu(), hidden).to(self.device)
        states = model(made.ids, made.positions, made.visibility)[:, -self.form.codes :]
        hidden = hidden.to(self.device)
        return self._entropy(model, states[hidden], batch["codes"][hidden])
