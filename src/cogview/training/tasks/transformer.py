"""Stage two: training the transformer on token shards (CogView, section 2.3).

A sample is an item's codes and one of its captions, resampled in each epoch (language, style); texts of
similar length share a batch. For super-resolution (section 3.1) it is a window of a large image and the
corresponding part of the small one. The sequence format defines tokens, positions and weights; right padding
has no weight, and other tokens do not attend to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from copy import copy
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.data.loader import Crop, TokenBatch, TokenLoader
from cogview.data.shards import TokenShards
from cogview.errors import CogViewError
from cogview.files import write_image
from cogview.generation.next_tokens import FILE as NEXT_TOKENS
from cogview.generation.next_tokens import NextTokens
from cogview.sequences import SequenceFormat, collate
from cogview.training.first_loss import ROWS, FirstLosses
from cogview.training.init_checkpoint import InitCheckpoint, find_init_checkpoint
from cogview.training.objective import sequence_loss, split_targets
from cogview.training.recipe import Recipe
from cogview.training.sample_sheet import Sampler
from cogview.training.task import Metrics, State, Task, load_weights
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.throughput import BatchCost, transformer_cost
from cogview.transformer.attention import Prefix, ThreeRegion, Visibility
from cogview.transformer.attention.three_region import check_fits
from cogview.transformer.config import TransformerConfig
from cogview.transformer.lora import adapter_parameters, attach, save_adapter
from cogview.transformer.model import Transformer

LOSS_ONLY = {
    "text_weight",
    "image_weight",
    "context_weight",
    "weighting",
}  # fields that affect the loss, not the sequence
MAX_CAPTIONED = 50_000  # maximum number of items whose captions are used for a table of next tokens
VALIDATION_SEED = 20210526  # the day CogView's paper appeared; it only affects the choice of captions


def make_batch(format: SequenceFormat, batch: TokenBatch, multiple: int = 1) -> dict[str, Tensor]:
    """Sequences of a batch of codes and texts, with targets shifted by one.

    Returns ``inputs``, ``positions``, ``targets`` int64 and ``weights`` float32, each (batch, length), with a
    length that is a multiple of ``multiple``; ``prefix`` (batch,); ``image_at`` and ``text_at``, the flat
    indices of image and text targets with a loss.
    """
    rows = [batch["texts"], batch["codes"].numpy()]
    if "context" in batch:
        rows.append(batch["context"].numpy())
    pad = format.vocabulary.control("[PAD]")
    sequences = collate([format.training(*row) for row in zip(*rows, strict=True)], pad)
    inputs, targets = sequences["ids"][:, :-1], sequences["ids"][:, 1:]
    positions, weights = sequences["positions"][:, :-1], sequences["weights"][:, 1:]
    if not batch["items"]:  # a substitute row of another rank
        weights = torch.zeros_like(weights)
    more = -inputs.shape[1] % multiple
    targets, weights = F.pad(targets, (0, more), value=pad), F.pad(weights, (0, more))
    image_at, text_at = split_targets(targets, weights, format.vocabulary)
    return {
        "inputs": F.pad(inputs, (0, more), value=pad),
        "positions": F.pad(positions, (0, more)),
        "targets": targets,
        "weights": weights,
        "prefix": sequences["prefix"],
        "image_at": image_at,
        "text_at": text_at,
    }


def weigh_cells(batch: dict[str, Tensor], cells: Tensor) -> dict[str, Tensor]:
    """Multiply the weight of every code by that of its position in the image; cells: (rows * columns,)."""
    weights = batch["weights"].clone()
    places = batch["image_at"].view(len(batch["image_at"]) // len(cells), len(cells))
    weights.view(-1)[places] *= cells
    return {**batch, "weights": weights}


class TransformerTask(Task):
    """Trains :class:`~cogview.transformer.model.Transformer`; see :class:`TransformerRecipe`."""

    recipe_class: ClassVar[type[Recipe]] = TransformerRecipe
    name: ClassVar[str] = "transformer"
    all_half: ClassVar[bool] = True
    unit = "sequences"
    spike: ClassVar[tuple[float, float]] = (2.0, 1.0)  # in nats a token
    recipe: TransformerRecipe

    @cached_property
    def shards(self) -> TokenShards:
        """The data, opened on first use."""
        return TokenShards(self.recipe.data)

    @cached_property
    def format(self) -> SequenceFormat:
        """The sequence format with the data's vocabulary and grid."""
        index, fields = self.shards.index, self.recipe.format.model_dump(exclude={"window"})
        grids: dict[str, Any] = {"grid": index.grid}
        if self.crop:
            grids = {"grid": self.crop, "context_grid": Crop(self.shards, self.crop).context_size}
        return SequenceFormat(vocabulary=index.vocabulary, **grids, **fields)

    @cached_property
    def crop(self) -> tuple[int, int] | None:
        """The window of super-resolution; raises CogViewError if the data have no small images."""
        if self.recipe.format.kind != "super_resolution":
            return None
        self.shards.context([])  # raises
        return self.recipe.format.window or self.shards.index.context_grid

    def config(self) -> TransformerConfig:
        """The model's configuration; raises CogViewError if a size is too small for the data."""
        config = self.recipe.model or self.start.config()
        sizes = {
            "vocab_size": self.format.vocabulary.padded_size,
            "max_positions": self.format.max_positions,
        }
        for field, minimum in sizes.items():
            size = getattr(config, field)
            if size and size < minimum:
                raise CogViewError(
                    f"model.{field}: {size} is too small for {self.recipe.data}, which needs {minimum}"
                )
            sizes[field] = size or minimum
        return TransformerConfig.model_validate({**config.model_dump(), **sizes})

    @cached_property
    def cells(self) -> Tensor | None:
        """The ``cell_weights`` as (rows * columns,); raises CogViewError if they do not fit the grid."""
        if self.recipe.cell_weights is None:
            return None
        rows, columns = self.format.grid
        sizes = [len(row) for row in self.recipe.cell_weights]
        if sizes != [columns] * rows or self.format.kind not in ("text_to_image", "coglm"):
            raise CogViewError(
                f"cell_weights: {len(sizes)} rows of {sorted(set(sizes))} numbers do not fit the {rows} x "
                f"{columns} codes of {self.format.kind}; they are for generating images, one number a code"
            )
        return torch.tensor(self.recipe.cell_weights).flatten()

    def build(self) -> nn.Module:
        self.cells, self.sampler  # noqa: B018  (so that errors are raised before training)
        if self.recipe.attention != "causal":
            length, image = self.format.max_length, self.format.codes + self.format.context_codes
            check_fits(self.recipe.attention, length - 1, length - image, image)
        return Transformer(self.config())

    @cached_property
    def start(self) -> InitCheckpoint:
        """The model in ``init``; raises CogViewError if the data have other tokenizers."""
        assert self.recipe.init is not None
        checkpoint, index = find_init_checkpoint(self.recipe.init), self.shards.index
        checkpoint.require(index.image_tokenizer, index.text_tokenizer, self.recipe.data)
        return checkpoint

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load the model in ``init``, and add adapters if the recipe has ``lora``."""
        load_weights(model, self.start.directory)
        if self.recipe.lora:
            attach(model, self.recipe.lora)

    def first_losses(self, model: nn.Module) -> FirstLosses:
        """Losses of the first rows of the first batch, in the recipe's format and in that of ``init``."""
        init_task, init_model = self._init_task(), Transformer.from_directory(self.start.directory)
        batch = self._first_items(min(self.format.text_limit, init_task.format.text_limit))
        then = init_task.format.model_dump()
        differs = {
            name: (now, then[name])
            for name, now in self.format.model_dump().items()
            if name in then and now != then[name] and name not in LOSS_ONLY
        }
        return FirstLosses(self._parts(model, batch), init_task._parts(init_model, batch), differs)

    def _init_task(self) -> TransformerTask:
        """This task with the format that the model in ``init`` was trained on, if it is of the same kind.

        If it is of another kind, as for captions by a text-to-image model, it has the recipe's format.
        """
        known, task = self.start.sequences, copy(self)
        if known is not None and (known.kind, known.grid) == (self.format.kind, self.format.grid):
            task.__dict__["format"] = known
        return task

    def _first_items(self, text_limit: int) -> TokenBatch:
        """The first rows of the first batch, with texts truncated to ``text_limit``."""
        batch = next(_first((next(iter(self._batches(None))),), ROWS))
        batch["texts"] = [text[:text_limit] for text in batch["texts"]]
        return batch

    def _parts(self, model: nn.Module, batch: TokenBatch) -> dict[str, float]:
        """Mean losses of image and text tokens in nats, if the batch contains any."""
        sequences = self._sequences(batch)
        _, parts = self.likelihood(model, sequences)
        sizes = {"image_loss": len(sequences["image_at"]), "text_loss": len(sequences["text_at"])}
        return {name: float(parts[name]) for name, size in sizes.items() if size}

    def _sequences(self, batch: TokenBatch, multiple: int = 1) -> dict[str, Any]:
        """Sequences of a batch, with a length that is a multiple of ``multiple``."""
        return make_batch(self.format, batch, multiple)

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, or only those of the adapters."""
        return adapter_parameters(model) if self.recipe.lora else model.named_parameters()

    def compile(self, model: nn.Module) -> None:
        """Compile each block: one small graph serves all of them."""
        for block in cast(Transformer, model).blocks:
            block.compile()

    def _batches(self, state: State | None, rank: int = 0, world: int = 1) -> TokenLoader:
        recipe = self.recipe
        return TokenLoader(
            self.shards,
            recipe.batch_size,
            seed=recipe.seed,
            splits=(recipe.split,),
            sources=recipe.sources,
            mixture=recipe.mixture,
            text_limit=self.format.text_limit,
            crop=self.crop,
            rank=rank,
            world=world,
            state=state,
        )

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[dict[str, Tensor], State]]:
        for batch, after in self._batches(state, rank, world):
            sequences = self._sequences(batch, self.recipe.pad_multiple)
            yield sequences if self.cells is None else weigh_cells(sequences, self.cells), after

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics]:
        return self.likelihood(model, batch)

    def likelihood(self, model: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
        """The weighted cross-entropy of a batch, and its parts."""
        model = cast(Transformer, model)
        hidden = self._hidden(model, batch)
        loss, parts = sequence_loss(
            model.logits,
            hidden,
            batch["targets"],
            batch["weights"],
            self.format.vocabulary,
            softmax=self.recipe.softmax,
            padding_rows=self.recipe.padding_rows,
            places=(batch["image_at"], batch["text_at"]),
            matrix=model.tokens.weight,
        )
        return loss, {**parts}

    @property
    def rows_at_once(self) -> int | None:
        """How many sequences of similar length are processed at a time; None: the full batch."""
        return self.recipe.rows_at_once

    def _hidden(self, model: Transformer, batch: Any) -> Tensor:
        """The last hidden states (batch, length, h), computed in groups of ``rows_at_once``."""
        rows, at_once = len(batch["inputs"]), self.rows_at_once if model.training else None
        if not (at_once and at_once < rows):
            visibility = self._visibility(batch, model.config.layers, model.training)
            return cast(Tensor, model(batch["inputs"], batch["positions"], visibility))
        lengths, order = self._not_padding(batch).sum(1).sort()
        groups: list[Tensor] = []
        for group, longest in zip(torch.split(order, at_once), torch.split(lengths, at_once), strict=True):
            size = int(longest[-1])
            part = {name: batch[name][group, :size] for name in ("inputs", "positions")}
            visibility = self._visibility({"prefix": batch["prefix"][group]}, model.config.layers, True)
            hidden = model(part["inputs"], part["positions"], visibility)
            groups.append(F.pad(hidden, (0, 0, 0, batch["inputs"].shape[1] - size)))
        return torch.cat(groups)[order.argsort()]

    def _visibility(self, batch: Any, layers: int, training: bool) -> Visibility | None:
        """The attention pattern of a batch; None is causal."""
        if self.format.visibility == "prefix":
            return Prefix(batch["prefix"])
        if not training:
            return None
        attention = self.recipe.attention
        if attention == "causal":
            return None
        vocabulary, ids = self.format.vocabulary, batch["inputs"]
        image = ids < vocabulary.image_codes
        text = ~image & (ids != vocabulary.control("[PAD]"))
        return ThreeRegion.sample(attention, text, image, layers)

    def num_items(self, batch: Any) -> int:
        return len(batch["inputs"])

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        """The cost without padding; the output projection only counts the rows of each region's softmax."""
        config, ids = cast(Transformer, model).config, self.format.vocabulary
        lengths = self._not_padding(batch).sum(1).tolist()
        rows = len(batch["image_at"]) * ids.image_codes + len(batch["text_at"]) * ids.text_pieces
        cost = transformer_cost(config, lengths, 2.0 * config.hidden * rows)
        return BatchCost(cost.tokens, cost.operations * 2 / 3) if self.recipe.lora else cost

    def _not_padding(self, batch: Any) -> Tensor:
        """bool (batch, length), True for tokens that are not padding."""
        mask: Tensor = batch["inputs"] != self.format.vocabulary.control("[PAD]")
        return mask

    def sample_keys(self, state: State | None, batches: int) -> list[str]:
        """The keys of the batches' images."""
        next_batches = islice(self._batches(state), batches)
        return [self.shards.keys[item] for batch, _ in next_batches for item in batch["items"]]

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """Weight each loss by the number or weight of its tokens."""
        weight = float(batch["weights"].sum())
        return {"loss": weight, "image_loss": len(batch["image_at"]), "text_loss": len(batch["text_at"])}

    # ------------------------------------------------------------------------------------------ evaluation

    @cached_property
    def validation(self) -> list[dict[str, Tensor]]:
        """The validation batches, the same at every evaluation."""
        config, sources = self.recipe.validation, self.recipe.sources
        if config.split not in self.shards.splits or not len(self.shards.select((config.split,), sources)):
            return []
        loader = TokenLoader(
            self.shards,
            config.batch_size,
            seed=VALIDATION_SEED,
            splits=(config.split,),
            sources=sources,
            mixture=self.recipe.mixture.model_copy(update={"weights": {}}),
            text_limit=self.format.text_limit,
            crop=self.crop,
            epochs=1,
        )
        return [self._sequences(batch) for batch in _first(loader, config.items)]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss, and its image and text parts in nats a token, on the validation split."""
        sums = {"loss": 0.0, "image_loss": 0.0, "text_loss": 0.0}
        counts = dict.fromkeys(sums, 1e-9)
        for batch in self.validation:
            loss, parts = self.likelihood(model, self.prepare(batch, self.device))
            sizes = (float(batch["weights"].sum()), len(batch["image_at"]), len(batch["text_at"]))
            for name, size in zip(sums, sizes, strict=True):
                sums[name] += float({"loss": loss, **parts}[name]) * size
                counts[name] += size
        return {name: total / counts[name] for name, total in sums.items()} if self.validation else {}

    @cached_property
    def sampler(self) -> Sampler | None:
        """The generator of the recipe's ``samples``."""
        config, index = self.recipe.samples, self.shards.index
        if config is None:
            return None
        return Sampler(config, self.format, index.image_tokenizer, index.text_tokenizer)

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """Write a contact sheet of the recipe's prompts."""
        if self.sampler:
            sheet = self.sampler.sheet(cast(Transformer, model))
            write_image(directory / f"samples-{step:08d}.png", sheet)

    @cached_property
    def next_tokens(self) -> NextTokens:
        """The table of next tokens in training captions, for speculative decoding of captions."""
        return NextTokens.learn(self._captions())

    def _captions(self) -> Iterator[list[int]]:
        """Ids of plain captions with their end token, of items from all over the training split."""
        items = self.shards.select((self.recipe.split,), self.recipe.sources)
        vocabulary, limit = self.format.vocabulary, self.format.text_limit
        assert self.format.end is not None
        end = vocabulary.control(self.format.end)
        for item in items[:: 1 + len(items) // MAX_CAPTIONED]:
            for caption in self.shards[int(item)].captions:
                if caption.kind == "plain":
                    yield [*vocabulary.text_ids(caption.pieces[:limit], limit).tolist(), end]

    def facts(self) -> dict[str, Any]:
        """The contents of ``training.json``: recipe, data, tokenizers and sequence format."""
        index = self.shards.index
        return {
            "recipe": self.recipe.name,
            "data": index.fingerprint,
            "image_tokenizer": index.image_tokenizer,
            "text_tokenizer": index.text_tokenizer,
            "sequences": self.format.model_dump(mode="json"),
        }

    def export(self, model: nn.Module, directory: Path) -> None:
        """Write the model (fp16) or its adapter, and ``training.json`` with format and tokenizers."""
        if self.recipe.lora:
            save_adapter(model, self.recipe.lora, directory)
        else:
            cast(Transformer, model).save(directory)
        if self.format.end is not None:
            self.next_tokens.save(directory / NEXT_TOKENS)
        facts = self.facts()
        (directory / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _first(loader: Iterable[tuple[TokenBatch, State]], items: int) -> Iterator[TokenBatch]:
    """Batches with ``items`` items in total; the last one is truncated."""
    for batch, _ in loader:
        if items <= 0:
            return
        part = TokenBatch(
            texts=batch["texts"][:items], codes=batch["codes"][:items], items=batch["items"][:items]
        )
        if "context" in batch:
            part["context"] = batch["context"][:items]
        if "languages" in batch:
            part["languages"] = batch["languages"][:items]
        yield part
        items -= len(part["texts"])
