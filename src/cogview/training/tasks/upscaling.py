"""Training CogView2's two super-resolution models from a CogLM (section 3.3).

A sample is an item's large image, its small one and one of its captions (``cogview data build
--super-resolution``). *Direct*: all large codes from the small ones in one pass; only the decoder's attention
layers and the large image's positions are trained. *Iterative*: large codes are masked, with a mask ratio
sampled for each item, and predicted from the others and the text; all weights are trained.
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


class UpscalingRecipe(Recipe):
    """Base of both recipes. ``init`` is a CogLM (a family, a run or its directory), or a model of the same
    task to continue from (``pictogram-2/direct``). window: rows and columns of the local attention, by
    default 9 x 9 or those of the model in init. attention_dropout: overrides that of the model in init.
    ``data``, ``split``, ``sources``, ``mixture`` and ``validation`` are as in the transformer's recipe.
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
            raise ValueError("init: missing; give the CogLM whose images are to be upscaled")
        return self


class DirectRecipe(UpscalingRecipe):
    """Direct super-resolution. across: rows and columns of the window on the small image. trained: only the
    decoder's attention, as in the paper, or everything."""

    task: Literal["direct_super_resolution"]
    across: tuple[PositiveInt, PositiveInt] = (5, 5)
    trained: Literal["decoder", "all"] = "decoder"


class IterativeRecipe(UpscalingRecipe):
    """Iterative super-resolution. text_slots: number of text tokens that are read. ratios: mask ratios, one
    of which is sampled for each item. trained: everything, as in the paper, or only the attention layers and
    the large positions, so that all other weights can be shared with the CogLM."""

    task: Literal["iterative_super_resolution"]
    text_slots: PositiveInt = 16
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 0.9)
    trained: Literal["attention", "all"] = "all"


def sample_masks(
    count: int, length: int, ratios: tuple[float, ...], generator: torch.Generator | None
) -> Tensor:
    """bool (count, length): random masks, each with one of ``ratios``, of at least one code."""
    sampled = torch.tensor(ratios)[torch.randint(len(ratios), (count,), generator=generator)]
    ranks = torch.rand(count, length, generator=generator).argsort(1).argsort(1)
    return ranks < (sampled * length).round().clamp(min=1)[:, None]


def expand_weights(state: Mapping[str, Tensor], model: nn.Module, positions: Tensor) -> dict[str, Tensor]:
    """Initialize the weights of a super-resolution model from those of its base model.

    The decoder is a copy of the encoder; the embedding of each large code's position is a copy of that of the
    corresponding small code, whose rows in the base's table are ``positions``, int64 (codes,).
    """
    weights = {}
    for name in model.state_dict():
        *parents, module, kind = name.split(".")
        source = ".".join([*parents, COPIED.get(module, module), kind])
        if name == "extra_positions.weight":
            weights[name] = state["positions.weight"][positions].clone()
        else:
            weights[name] = state[source].clone() if module in COPIED else state[source]
    return weights


class UpscalingTask(Task):
    """Base of both tasks."""

    recipe: Any
    all_half: ClassVar[bool] = True
    unit = "images"
    spike: ClassVar[tuple[float, float]] = (2.0, 1.0)  # in nats a code

    @cached_property
    def shards(self) -> TokenShards:
        """The data, opened on first use; raises CogViewError if they have no small images."""
        shards = TokenShards(self.recipe.data)
        shards.context([])  # raises
        return shards

    @cached_property
    def start(self) -> InitCheckpoint:
        """The model in ``init``; raises CogViewError if the data have other tokenizers."""
        index, start = self.shards.index, find_init_checkpoint(self.recipe.init)
        start.require(index.image_tokenizer, index.text_tokenizer, self.recipe.data)
        return start

    @cached_property
    def base(self) -> tuple[CogLMFormat, TransformerConfig]:
        """The CogLM's format and configuration; raises CogViewError if they do not fit the data."""
        format, index = of_type(self.start.sequences, CogLMFormat), self.shards.index
        if format is None:
            raise CogViewError(
                f"init: {self.recipe.init} is no CogLM, nor a model of this task; super-resolution "
                "starts from a CogLM (task: coglm)"
            )
        sizes = format.vocabulary.image_codes, format.vocabulary.text_pieces
        data_sizes = index.vocabulary.image_codes, index.vocabulary.text_pieces
        if format.grid != index.context_grid or sizes != data_sizes:
            raise CogViewError(
                f"{self.recipe.data}: small images of {index.context_grid} codes, {data_sizes} image codes "
                f"and text tokens; the model in init has {format.grid} and {sizes}"
            )
        return format, self.start.config()

    @property
    def scale(self) -> int:
        """The upscaling factor of a side."""
        return self.shards.index.grid[0] // self.base[0].grid[0]

    @property
    def init_format(self) -> DirectFormat | IterativeFormat | None:
        """The format of a model of this task in ``init``, or None; raises CogViewError if the data differ."""
        index, start = self.shards.index, self.start.sequences
        direct, iterative = of_type(start, DirectFormat), of_type(start, IterativeFormat)
        format = direct or iterative
        if format is None or format.kind != self.name:
            return None
        small = direct.small if direct else index.context_grid
        if (format.grid, small) != (index.grid, index.context_grid):
            raise CogViewError(
                f"{self.recipe.data}: images of {index.grid} codes from {index.context_grid}; the "
                f"model in init generates {format.grid} from {small}"
            )
        return format

    @cached_property
    def format(self) -> DirectFormat | IterativeFormat:
        """The model's sequence format."""
        raise NotImplementedError

    def _format_changes(self, *names: str) -> dict[str, Any]:
        """Fields of the format from the recipe; its defaults are only used if there is no ``init_format``."""
        used = [name for name in names if self.init_format is None or name in self.recipe.model_fields_set]
        return {name: getattr(self.recipe, name) for name in used}

    @property
    def text_limit(self) -> int:
        """The number of text tokens that are read; longer texts are truncated."""
        raise NotImplementedError

    def config(self) -> TransformerConfig:
        """The model's configuration."""
        config = self.start.config() if self.init_format else upscaler_config(self.base[1], self.format)
        dropout = self.recipe.attention_dropout
        return config if dropout is None else config.model_copy(update={"attention_dropout": dropout})

    def build(self) -> nn.Module:
        return Transformer(self.config())

    def first_losses(self, model: nn.Module) -> FirstLosses | None:
        """Losses of the same items in both models of this task; None for a CogLM, which has no such loss."""
        if self.init_format is None:
            return None
        batch, _ = next(iter(self.loader(None)))
        first: Any = {name: cast(Any, values)[:ROWS] for name, values in batch.items()}
        init_model = Transformer.from_directory(self.start.directory)
        start = self._first_loss(model, self.format, first)
        own = self._first_loss(init_model, self.init_format, first)
        now, then = self.format.model_dump(), self.init_format.model_dump()
        return FirstLosses(
            start, own, {name: (now[name], then[name]) for name in now if now[name] != then[name]}
        )

    def _first_loss(
        self, model: nn.Module, format: DirectFormat | IterativeFormat, batch: TokenBatch
    ) -> dict[str, float]:
        """A model's loss on the CPU, with the same mask at every call."""
        task, generator = copy(self), torch.Generator().manual_seed(VALIDATION_SEED)
        task.__dict__["format"], task.device = format, torch.device("cpu")
        loss, _ = task._loss(cast(Transformer, model), batch, generator)
        return {"image_loss": float(loss)}

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Initialize from the CogLM's weights, or from those of a model of this task."""
        if self.init_format:
            load_weights(model, self.start.directory)
            return
        base, coglm = self.base[0], Transformer.from_directory(self.start.directory)
        rows, columns = self.format.grid
        index = torch.arange(rows * columns)
        small = index // columns // self.scale * base.grid[1] + index % columns // self.scale
        model.load_state_dict(expand_weights(coglm.state_dict(), model, base.begin_position + 1 + small))

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
        """Cross-entropy of the predicted large codes, in nats, and metrics."""
        raise NotImplementedError

    def _cross_entropy(self, model: Transformer, states: Tensor, codes: Tensor) -> tuple[Tensor, Metrics]:
        """Cross-entropy and accuracy of codes (n,) from their hidden states (n, h)."""
        logits = model.logits(states, slice(0, self.format.vocabulary.image_codes)).float()
        loss = F.cross_entropy(logits, codes)
        return loss, {"image_loss": loss.detach(), "accuracy": (logits.argmax(-1) == codes).float().mean()}

    def num_items(self, batch: Any) -> int:
        return len(batch["texts"])

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """Weight the loss by the number of images."""
        return {"loss": float(len(batch["items"]))}

    @cached_property
    def validation(self) -> list[TokenBatch]:
        """The validation batches, the same at every evaluation."""
        config = self.recipe.validation
        selected = self.shards.select((config.split,), self.recipe.sources)
        if config.split not in self.shards.splits or not len(selected):
            return []
        mixture = self.recipe.mixture.model_copy(update={"weights": {}})
        batches, items = list[TokenBatch](), 0
        loader = self._loader(VALIDATION_SEED, config.split, config.batch_size, mixture=mixture, epochs=1)
        for batch, _ in loader:
            if items >= config.items:
                break
            batches.append(batch)
            items += len(batch["texts"])
        return batches

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss in nats a code and accuracy on held-out images, with the same masks every time."""
        generator, sums, count = torch.Generator().manual_seed(VALIDATION_SEED), dict[str, float](), 0
        for batch in self.validation:
            on_device, size = self.prepare(batch, self.device), len(batch["texts"])
            loss, metrics = self._loss(cast(Transformer, model), on_device, generator)
            count += size
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * size
        return {name: total / count for name, total in sums.items()}

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """No samples: the metrics of single codes suffice."""
        return

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is no state."""
        return

    def compile(self, model: nn.Module) -> None:
        """Compile each block."""
        for block in cast(Transformer, model).blocks:
            block.compile()

    def export(self, model: nn.Module, directory: Path) -> None:
        """Write the model (fp16) and ``training.json`` with its sequence format and tokenizers."""
        cast(Transformer, model).save(directory)
        index = self.shards.index
        facts = {
            "recipe": self.recipe.name,
            "data": index.fingerprint,
            "image_tokenizer": index.image_tokenizer,
            "text_tokenizer": index.text_tokenizer,
            "sequences": self.format.model_dump(mode="json"),
        }
        (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


class DirectTask(UpscalingTask):
    """Trains direct super-resolution; see :class:`DirectRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = DirectRecipe
    name: ClassVar[str] = "direct_super_resolution"
    recipe: DirectRecipe

    @cached_property
    def format(self) -> DirectFormat:
        known = cast(DirectFormat | None, self.init_format)
        format = known or DirectFormat.over(self.base[0], self.scale, self.base[1].max_positions)
        return format.model_copy(update=self._format_changes("window", "across"))

    @property
    def text_limit(self) -> int:
        return self.format.text_limit

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The decoder's projections and the large positions, unless everything is trained."""
        for name, parameter in model.named_parameters():
            of_decoder = ".decoder_" in name or name == "extra_positions.weight"
            if of_decoder or self.recipe.trained == "all":
                yield name, parameter

    def _loss(
        self, model: Transformer, batch: TokenBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Metrics]:
        inputs = self.format.inputs(batch["texts"], batch["context"].cpu()).to(self.device)
        states = model(inputs.ids, inputs.positions, inputs.visibility)[:, -self.format.codes :]
        return self._cross_entropy(model, states.flatten(0, 1), batch["codes"].flatten())


class IterativeTask(UpscalingTask):
    """Trains iterative super-resolution; see :class:`IterativeRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = IterativeRecipe
    name: ClassVar[str] = "iterative_super_resolution"
    recipe: IterativeRecipe

    @cached_property
    def format(self) -> IterativeFormat:
        known = cast(IterativeFormat | None, self.init_format)
        format = known or IterativeFormat.over(self.base[0], self.scale, self.base[1].max_positions)
        return format.model_copy(update=self._format_changes("window", "text_slots"))

    @property
    def text_limit(self) -> int:
        return self.format.text_slots

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that ``trained`` selects."""
        for name, parameter in model.named_parameters():
            if self.recipe.trained == "all" or ".attention." in name or name == "extra_positions.weight":
                yield name, parameter

    def _loss(
        self, model: Transformer, batch: TokenBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, Metrics]:
        masks = sample_masks(len(batch["texts"]), self.format.codes, self.recipe.ratios, generator)
        inputs = self.format.inputs(batch["texts"], batch["codes"].cpu(), masks).to(self.device)
        states = model(inputs.ids, inputs.positions, inputs.visibility)[:, -self.format.codes :]
        masks = masks.to(self.device)
        return self._cross_entropy(model, states[masks], batch["codes"][masks])
