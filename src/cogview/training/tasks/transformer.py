"""Stage two: training the transformer on token shards (CogView, section 2.3).

A sample is an item's codes and one of its captions, chosen again in each epoch (language, style); texts of
like length share a batch. For super-resolution (section 3.1) it is a window of a large image and the part
of the small one under it. The sequence format says which tokens, positions and weights; the model sees no
padding, because padding stands after everything else and carries no weight.
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
}  # what is counted, not what is read
LEARNT = 50_000  # items whose captions a table of next tokens is made of, at most
VALIDATION_SEED = 20210526  # the day CogView's paper appeared; only the choice of captions hangs on it


def make_batch(format: SequenceFormat, batch: TokenBatch, multiple: int = 1) -> dict[str, Tensor]:
    """Sequences of a batch of codes and texts, shifted by one: place i predicts target i.

    Returns ``inputs``, ``positions``, ``targets`` int64 and ``weights`` float32, each (batch, length), the
    length a multiple of ``multiple``; ``prefix`` (batch,); ``image_at`` and ``text_at``, the flat places of
    the loss.
    """
    rows = [batch["texts"], batch["codes"].numpy()]
    if "context" in batch:
        rows.append(batch["context"].numpy())
    pad = format.vocabulary.control("[PAD]")
    whole = collate([format.training(*row) for row in zip(*rows, strict=True)], pad)
    inputs, targets = whole["ids"][:, :-1], whole["ids"][:, 1:]
    positions, weights = whole["positions"][:, :-1], whole["weights"][:, 1:]
    if not batch["items"]:  # another rank's row, to stand in
        weights = torch.zeros_like(weights)
    more = -inputs.shape[1] % multiple
    targets, weights = F.pad(targets, (0, more), value=pad), F.pad(weights, (0, more))
    image_at, text_at = split_targets(targets, weights, format.vocabulary)
    return {
        "inputs": F.pad(inputs, (0, more), value=pad),
        "positions": F.pad(positions, (0, more)),
        "targets": targets,
        "weights": weights,
        "prefix": whole["prefix"],
        "image_at": image_at,
        "text_at": text_at,
    }


def weigh_cells(batch: dict[str, Tensor], cells: Tensor) -> dict[str, Tensor]:
    """The batch with the weight of every code multiplied by that of its place; cells: (rows * columns,)."""
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
    spike: ClassVar[tuple[float, float]] = (2.0, 1.0)  # of nats a token
    recipe: TransformerRecipe

    @cached_property
    def shards(self) -> TokenShards:
        """The data, opened at first use."""
        return TokenShards(self.recipe.data)

    @cached_property
    def format(self) -> SequenceFormat:
        """The sequence format with the data's vocabulary and grid."""
        index, given = self.shards.index, self.recipe.format.model_dump(exclude={"window"})
        grids: dict[str, Any] = {"grid": index.grid}
        if self.crop:
            grids = {"grid": self.crop, "context_grid": Crop(self.shards, self.crop).context_size}
        return SequenceFormat(vocabulary=index.vocabulary, **grids, **given)

    @cached_property
    def crop(self) -> tuple[int, int] | None:
        """The window of super-resolution; CogViewError where the data have no small images."""
        if self.recipe.format.kind != "super_resolution":
            return None
        self.shards.context([])  # raises
        return self.recipe.format.window or self.shards.index.context_grid

    def config(self) -> TransformerConfig:
        """The model's configuration; raises CogViewError where a given size is too small for the data."""
        given = self.recipe.model or self.start.config()
        needed = {
            "vocab_size": self.format.vocabulary.padded_size,
            "max_positions": self.format.max_positions,
        }
        for field, least in needed.items():
            size = getattr(given, field)
            if size and size < least:
                raise CogViewError(
                    f"model.{field}: {size} is too small for {self.recipe.data}, which needs {least}"
                )
            needed[field] = size or least
        return TransformerConfig.model_validate({**given.model_dump(), **needed})

    @cached_property
    def cells(self) -> Tensor | None:
        """The recipe's ``cell_weights`` as (rows * columns,); CogViewError where they do not fit the grid."""
        if self.recipe.cell_weights is None:
            return None
        rows, columns = self.format.grid
        sizes = [len(row) for row in self.recipe.cell_weights]
        if sizes != [columns] * rows or self.format.kind not in ("text_to_image", "coglm"):
            raise CogViewError(
                f"cell_weights: {len(sizes)} rows of {sorted(set(sizes))} numbers do not fit the {rows} x "
                f"{columns} codes of {self.format.kind}; they are for drawing, one number a code"
            )
        return torch.tensor(self.recipe.cell_weights).flatten()

    def build(self) -> nn.Module:
        self.cells, self.sampler  # noqa: B018  (what does not fit is found before training, not after)
        if self.recipe.attention != "causal":
            form, image = self.format, self.format.codes + self.format.context_codes
            check_fits(self.recipe.attention, form.max_length - 1, form.max_length - image, image)
        return Transformer(self.config())

    @cached_property
    def start(self) -> InitCheckpoint:
        """The model in ``init``; CogViewError where the data have other tokens than it knows."""
        assert self.recipe.init is not None
        found, index = find_init_checkpoint(self.recipe.init), self.shards.index
        found.require(index.image_tokenizer, index.text_tokenizer, self.recipe.data)
        return found

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load the model in ``init``; put adapters around its layers where the recipe asks for them."""
        load_weights(model, self.start.directory)
        if self.recipe.lora:
            attach(model, self.recipe.lora)

    def first_losses(self, model: nn.Module) -> FirstLosses:
        """Of the first rows of the first batch: in the recipe's sequences, and in those of the start."""
        own, still = self._as_started(), Transformer.from_directory(self.start.directory)
        batch = self._first_items(min(self.format.text_limit, own.format.text_limit))
        then = own.format.model_dump()
        differs = {
            name: (now, then[name])
            for name, now in self.format.model_dump().items()
            if name in then and now != then[name] and name not in LOSS_ONLY
        }
        return FirstLosses(self._parts(model, batch), own._parts(still, batch), differs)

    def _as_started(self) -> TransformerTask:
        """This task with the sequences that the model in ``init`` was trained on, if they are of this kind.

        Of another kind, as for captions by a model that draws, the start is looked at in the recipe's.
        """
        known, task = self.start.sequences, copy(self)
        if known is not None and (known.kind, known.grid) == (self.format.kind, self.format.grid):
            task.__dict__["format"] = known
        return task

    def _first_items(self, text_limit: int) -> TokenBatch:
        """The first rows of the first batch, texts cut to what both formats read."""
        batch = next(_first((next(iter(self._batches(None))),), ROWS))
        batch["texts"] = [text[:text_limit] for text in batch["texts"]]
        return batch

    def _parts(self, model: nn.Module, batch: TokenBatch) -> dict[str, float]:
        """Mean losses of image and text tokens in nats, of those that a batch has."""
        made = self._sequences(batch)
        _, parts = self.likelihood(model, made)
        sizes = {"image_loss": len(made["image_at"]), "text_loss": len(made["text_at"])}
        return {name: float(parts[name]) for name, size in sizes.items() if size}

    def _sequences(self, batch: TokenBatch, multiple: int = 1) -> dict[str, Any]:
        """Sequences of a batch, their length a multiple of ``multiple``."""
        return make_batch(self.format, batch, multiple)

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """All, or the adapters' alone."""
        return adapter_parameters(model) if self.recipe.lora else model.named_parameters()

    def compile(self, model: nn.Module) -> None:
        """Compile block by block: one small graph for all of them."""
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
        """How many sequences of about one length go through the model together; None: all of a batch."""
        return self.recipe.rows_at_once

    def _hidden(self, model: Transformer, batch: Any) -> Tensor:
        """The last layer's (batch, length, h), by groups of about one length where the recipe asks."""
        rows, at_once = len(batch["inputs"]), self.rows_at_once if model.training else None
        if not (at_once and at_once < rows):
            visibility = self._visibility(batch, model.config.layers, model.training)
            return cast(Tensor, model(batch["inputs"], batch["positions"], visibility))
        lengths, order = self._there(batch).sum(1).sort()
        whole: list[Tensor] = []
        for group, longest in zip(torch.split(order, at_once), torch.split(lengths, at_once), strict=True):
            size = int(longest[-1])
            part = {name: batch[name][group, :size] for name in ("inputs", "positions")}
            visibility = self._visibility({"prefix": batch["prefix"][group]}, model.config.layers, True)
            hidden = model(part["inputs"], part["positions"], visibility)
            whole.append(F.pad(hidden, (0, 0, 0, batch["inputs"].shape[1] - size)))
        return torch.cat(whole)[order.argsort()]

    def _visibility(self, batch: Any, layers: int, training: bool) -> Visibility | None:
        """Who sees whom in a batch; None is causal."""
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
        """Padding left out; of the output matrix the rows each region's softmax is over."""
        config, ids = cast(Transformer, model).config, self.format.vocabulary
        lengths = self._there(batch).sum(1).tolist()
        rows = len(batch["image_at"]) * ids.image_codes + len(batch["text_at"]) * ids.text_pieces
        found = transformer_cost(config, lengths, 2.0 * config.hidden * rows)
        return BatchCost(found.tokens, found.operations * 2 / 3) if self.recipe.lora else found

    def _there(self, batch: Any) -> Tensor:
        """(batch, length) bool: what is not padding."""
        there: Tensor = batch["inputs"] != self.format.vocabulary.control("[PAD]")
        return there

    def sample_keys(self, state: State | None, batches: int) -> list[str]:
        """The keys of the batches' images."""
        found = islice(self._batches(state), batches)
        return [self.shards.keys[item] for batch, _ in found for item in batch["items"]]

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """Each loss by its own tokens."""
        weight = float(batch["weights"].sum())
        return {"loss": weight, "image_loss": len(batch["image_at"]), "text_loss": len(batch["text_at"])}

    # ------------------------------------------------------------------------------------------ looking

    @cached_property
    def validation(self) -> list[dict[str, Tensor]]:
        """The validation batches, the same at every evaluation."""
        asked, sources = self.recipe.validation, self.recipe.sources
        if asked.split not in self.shards.splits or not len(self.shards.select((asked.split,), sources)):
            return []
        loader = TokenLoader(
            self.shards,
            asked.batch_size,
            seed=VALIDATION_SEED,
            splits=(asked.split,),
            sources=sources,
            mixture=self.recipe.mixture.model_copy(update={"weights": {}}),
            text_limit=self.format.text_limit,
            crop=self.crop,
            epochs=1,
        )
        return [self._sequences(batch) for batch in _first(loader, asked.items)]

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
        """Draws the recipe's ``samples``."""
        asked, index = self.recipe.samples, self.shards.index
        if asked is None:
            return None
        return Sampler(asked, self.format, index.image_tokenizer, index.text_tokenizer)

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts."""
        if self.sampler:
            sheet = self.sampler.sheet(cast(Transformer, model))
            write_image(directory / f"samples-{step:08d}.png", sheet)

    @cached_property
    def next_tokens(self) -> NextTokens:
        """What follows what in the captions that are learnt, for windows of guesses."""
        return NextTokens.learn(self._captions())

    def _captions(self) -> Iterator[list[int]]:
        """Ids of plain captions with their end token, of items all over the training split."""
        chosen = self.shards.select((self.recipe.split,), self.recipe.sources)
        vocabulary, limit = self.format.vocabulary, self.format.text_limit
        assert self.format.end is not None
        end = vocabulary.control(self.format.end)
        for number in chosen[:: 1 + len(chosen) // LEARNT]:
            for caption in self.shards[int(number)].captions:
                if caption.kind == "plain":
                    yield [*vocabulary.text_ids(caption.pieces[:limit], limit).tolist(), end]

    def facts(self) -> dict[str, Any]:
        """What ``training.json`` says of the model: where it comes from, and what it was trained on."""
        index = self.shards.index
        return {
            "recipe": self.recipe.name,
            "data": index.fingerprint,
            "image_tokenizer": index.image_tokenizer,
            "text_tokenizer": index.text_tokenizer,
            "sequences": self.format.model_dump(mode="json"),
        }

    def export(self, model: nn.Module, directory: Path) -> None:
        """The model (fp16) or its adapter, and ``training.json``: sequence format, tokenizers."""
        if self.recipe.lora:
            save_adapter(model, self.recipe.lora, directory)
        else:
            cast(Transformer, model).save(directory)
        if self.format.end is not None:
            self.next_tokens.save(directory / NEXT_TOKENS)
        facts = self.facts()
        (directory / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _first(loader: Iterable[tuple[TokenBatch, State]], items: int) -> Iterator[TokenBatch]:
    """Batches until ``items`` items are reached, the last one cut."""
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
