"""What training a transformer would take: memory, sharding, tokens a second, days.

The model is stated, not fitted. Per parameter: fp32 weight 4 bytes, gradient 4, Adam's moments 8 (Muon's
momentum: 4 on hidden matrices), and 2 more for the half-precision copy in use; in all-fp16 training (O2)
weight and gradient 2 each, fp32 master 4, moments 8, and 4 for the fp32 gradient of the update. What is not
trained has a weight alone. Activations of a layer: what its linear layers, norms and GELU keep for the
backward pass (Korthikanti et al., 2022, give the account), and the attention scores that written-out numerics
keep (softmax and dropout; fused kernels keep none). Work: 6 FLOPs a parameter and token (4 where it is not
trained), 12 · layers · hidden · keys more for attention, a third on top for recomputation.
Communication: a ring moves 2 bytes a parameter twice (ZeRO-2) or three times (ZeRO-3) an update or, for
ZeRO-3, a micro-batch; it overlaps with the backward pass as far as that lasts.

Where ``tensor`` neighbours share each layer (``parallel/tensor.py``), a rank holds its part of what is split
and all of the rest, its heads' and hidden units' activations, and does the output matrix's work whole. Each
layer adds up a micro-batch's states twice on the way forward, in the precision of the matrices, twice more
where that is computed again (once under pre-LN), and their gradients twice on the way back, in fp32; nothing
hides it. Once an update the gradients of what all have are made the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, upscaler_config
from cogview.training.machines import Machine, Sharding
from cogview.training.parallel.requirements import check_groups, check_tensor
from cogview.training.parallel.tensor import SPLIT, check_split
from cogview.training.precision import ALL_HALF
from cogview.training.registry import read_recipe, task_class
from cogview.training.tasks.coglm import CogLMRecipe
from cogview.training.tasks.enlarging import DirectRecipe, EnlargingRecipe, EnlargingTask
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.transformer.config import TransformerConfig
from cogview.transformer.lora import attach
from cogview.transformer.model import Transformer

GIB = 2**30
RESERVE = 0.08  # of a GPU's memory, for the allocator, kernels and communication buffers


class Work(Config):
    """The training: sequences of ``length`` tokens, ``batch`` of them an update, ``steps`` updates.

    half, all_half: computed in half precision, by autocast or throughout (O2). tensor: neighbours that share
    each layer. keys: what a token sees, on average (None: the whole sequence). rows: of the output matrix,
    for a token on average (None: all). trained: share of the parameters. assumed: sizes that the recipe does
    not have, in words.
    """

    length: int = Field(ge=1)
    batch: int = Field(ge=1)
    steps: int = Field(ge=1)
    recompute: bool = True
    half: bool = True
    all_half: bool = False
    momentum_only: bool = False
    tensor: int = Field(1, ge=1)
    keys: float | None = Field(None, gt=0)
    rows: float | None = Field(None, gt=0)
    trained: float = Field(1.0, ge=0, le=1)
    assumed: str = ""


class Memory(Config):
    """Bytes on one GPU."""

    states: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.activations


class Plan(Config):
    """The plan for one sharding and micro-batch, which ``tensor`` GPUs see together.

    communication_seconds: of gradients and weights; tensor_seconds: of what neighbours add up, not hidden.
    trained: parameters that are; assumed: as in :class:`Work`.
    """

    parameters: int
    trained: int
    assumed: str
    tensor: int
    sharding: Sharding
    micro_batch: int
    accumulation: int
    memory: Memory
    compute_seconds: float
    communication_seconds: float
    tensor_seconds: float
    step_seconds: float
    tokens_per_second: float
    days: float

    def lines(self, gpus: int) -> list[str]:
        """The plan for people, one line a fact."""
        hidden = min(1.0, self.compute_seconds * 2 / 3 / max(self.communication_seconds, 1e-12))
        shared = f", each layer among {self.tensor}" if self.tensor > 1 else ""
        each = "a GPU" if self.tensor == 1 else f"for {self.tensor} GPUs"
        inside = f", {self.tensor_seconds:.2f} s adding up in layers" if self.tensor > 1 else ""
        trained = f", {self.trained:,} of them trained" if self.trained != self.parameters else ""
        return [
            *([self.assumed] if self.assumed else []),
            f"parameters      {self.parameters:,}{trained}",
            f"sharding        {self.sharding}{shared}, micro-batch {self.micro_batch} {each}, "
            f"{self.accumulation} accumulated, {gpus} GPUs",
            f"memory a GPU    {self.memory.states / GIB:.1f} GiB weights, gradients and optimizer, "
            f"{self.memory.activations / GIB:.1f} GiB activations",
            f"an update       {self.step_seconds:.2f} s: {self.compute_seconds:.2f} s computing{inside}, "
            f"{self.communication_seconds:.2f} s communicating, {hidden:.0%} of it hidden",
            f"speed           {self.tokens_per_second:,.0f} tokens/s",
            f"whole run       {self.days:.1f} days",
        ]


def parameters(config: TransformerConfig, tensor: int = 1) -> int:
    """The exact number, counted on the meta device: what one of ``tensor`` neighbours has."""
    split, common = split_and_common(config)
    return split // tensor + common


@cache
def split_and_common(config: TransformerConfig) -> tuple[int, int]:
    """Parameters of which neighbours have parts, and those that all of them have."""
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in Transformer(config).named_parameters()}
    split = sum(size for name, size in sizes.items() if name.endswith(SPLIT))
    return split, sum(sizes.values()) - split


def state_bytes(count: int, work: Work, sharding: Sharding, gpus: int) -> int:
    """Weights, gradients, optimizer and the half-precision copy on one GPU.

    count: parameters that a GPU has without sharding; gpus: those that shard them.
    """
    moments = 4 if work.momentum_only else 8
    weight = 2 if work.all_half else 4
    updated = (2 + 4 + 4 if work.all_half else 4) + moments  # gradients; in O2 also master, fp32 gradient
    states = weight * count + updated * round(count * work.trained)
    whole = {"none": states, "zero2": weight * count, "zero3": 0}[sharding]
    copy = 2 * count if work.half else 0
    if sharding == "zero3":
        copy //= 8  # the layers that are gathered at one time
    elif work.all_half:
        copy = 0  # the weights themselves are in use
    return whole + -(-(states - whole) // gpus) + copy


def activation_bytes(config: TransformerConfig, work: Work, micro_batch: int) -> int:
    """What the backward pass needs of a micro-batch, and the logits of its loss."""
    size = 2 if work.half else 4
    tokens = micro_batch * work.length
    ends = 2 if config.norm == "sandwich" else 0  # what enters the norms that end the branches
    own = 4 + 2 * config.ffn_multiple  # of a rank's heads and hidden units; the norms' results are whole
    layer = tokens * config.hidden * ((2 + ends) * work.tensor + own) * size // work.tensor
    layer += score_bytes(config, work, micro_batch)
    stream = tokens * config.hidden * (2 if work.all_half else 4)  # fp32 under autocast
    once, every = layer + stream, (stream if work.recompute else layer + 2 * stream)
    layers = every * config.layers + (once if work.recompute else 0)
    logits = round(tokens * (work.rows or config.vocab_size)) * (size + 4)
    return layers + logits


def score_bytes(config: TransformerConfig, work: Work, micro_batch: int) -> int:
    """What written-out attention keeps of a layer's scores: those after the softmax, and after dropout."""
    if config.numerics == "fused":
        return 0
    size = 2 if work.half else 4
    softmax = size if work.all_half or not work.half else 4 + size  # autocast takes it in fp32
    dropped = (1 + (size if softmax == size else 0)) if config.attention_dropout else 0  # mask, and result
    return micro_batch * config.heads * work.length**2 * (softmax + dropped) // work.tensor


def flops_per_token(
    config: TransformerConfig, work: Work, count: int, recompute: bool = False, tensor: int = 1
) -> float:
    """Forward and backward, of one of ``tensor`` neighbours.

    count: all its parameters, of which the position table does no work, nor, for any token, one of the two
    attentions of a model with a decoder. Gradients go through all layers, to weights only where trained.
    """
    working = count - config.hidden * (config.max_positions + config.extra_positions)
    if config.decoder_from is not None:
        working -= config.layers * 4 * config.hidden**2 // tensor
    if work.rows is not None:
        working -= round(config.hidden * (config.vocab_size - work.rows))
    attention = 4 * config.layers * config.hidden * (work.keys or work.length) / tensor
    again = 1 if recompute else 0
    return 2 * working * (2 + work.trained + again) + attention * (3 + again)


def communication_seconds(
    count: int, work: Work, machine: Machine, sharding: Sharding, accumulation: int
) -> float:
    """Moving gradients and weights once an update; ``count``: parameters that a GPU has without sharding."""
    ranks = machine.gpus // work.tensor
    if ranks == 1:
        return 0.0
    once = (
        work.trained * count * (2 if work.half else 4) * (ranks - 1) / ranks / _speed(machine, machine.gpus)
    )
    return once * (2 + (2 * accumulation - 1 if sharding == "zero3" else 0))


def tensor_seconds(config: TransformerConfig, work: Work, machine: Machine, sharding: Sharding) -> float:
    """What neighbours add up in an update: states and their gradients in the layers, common gradients."""
    ranks, parts = machine.gpus // work.tensor, work.tensor
    tokens = work.batch * work.length / ranks
    summed = config.layers * tokens * config.hidden * layer_bytes(config, work)
    _, common = split_and_common(config)
    summed += 4 * common / (1 if sharding == "none" else ranks)
    return summed * 2 * (parts - 1) / parts / _speed(machine, parts)


def layer_bytes(config: TransformerConfig, work: Work) -> int:
    """Bytes that a layer adds up for each token and hidden unit, forward and backward."""
    again = 1 if config.norm == "pre" else 2  # what ends such a layer need not be known a second time
    return (2 + (again if work.recompute else 0)) * (2 if work.half else 4) + 2 * 4


def _speed(machine: Machine, gpus: int) -> float:
    """Bytes a second that a GPU sends where this number of neighbours communicate."""
    return (machine.local if gpus <= machine.per_node else machine.network) * 1e9


def plan(config: TransformerConfig, work: Work, machine: Machine, sharding: Sharding | None = None) -> Plan:
    """The fastest plan that fits: the least sharding, the largest micro-batch.

    Raises:
        CogViewError: nothing fits; says how much one sequence needs with ZeRO-3. Layers or GPUs do not
            divide into ``work.tensor`` parts.
    """
    check_split(config, work.tensor)
    check_groups(machine.gpus, work.tensor)
    count, ranks = parameters(config, work.tensor), machine.gpus // work.tensor
    kinds: tuple[Sharding, ...] = (sharding,) if sharding else ("none", "zero2", "zero3")
    share = -(-work.batch // ranks)
    for kind in kinds:
        states = state_bytes(count, work, kind, ranks)
        for micro in _sizes(share):
            memory = Memory(states=states, activations=activation_bytes(config, work, micro))
            if memory.total <= machine.memory * GIB * (1 - RESERVE):
                return _timed(config, work, machine, kind, micro, count, memory)
    needed = (state_bytes(count, work, kinds[-1], ranks) + activation_bytes(config, work, 1)) / GIB
    raise CogViewError(
        f"one sequence on {machine.gpus} GPUs needs {needed / (1 - RESERVE):.1f} GiB each, there are "
        f"{machine.memory:g}; take more GPUs, shorter sequences or a smaller model"
    )


def _sizes(share: int) -> list[int]:
    """Micro-batches to try, largest first: powers of two up to a rank's share of the batch, at most 64."""
    return [size for size in (64, 32, 16, 8, 4, 2, 1) if size <= share]


def _timed(
    config: TransformerConfig,
    work: Work,
    machine: Machine,
    sharding: Sharding,
    micro: int,
    count: int,
    memory: Memory,
) -> Plan:
    ranks = machine.gpus // work.tensor
    accumulation = -(-work.batch // (ranks * micro))
    tokens = work.batch * work.length
    needed = tokens * flops_per_token(config, work, count, work.recompute, work.tensor)
    compute = needed / (ranks * machine.flops * 1e12 * machine.utilisation)
    moving = communication_seconds(count, work, machine, sharding, accumulation)
    inside = tensor_seconds(config, work, machine, sharding)
    backward = compute * 2 / 3
    step = compute + inside + max(0.0, moving - backward)
    return Plan(
        parameters=parameters(config),
        trained=round(parameters(config) * work.trained),
        assumed=work.assumed,
        tensor=work.tensor,
        sharding=sharding,
        micro_batch=micro,
        accumulation=accumulation,
        memory=memory,
        compute_seconds=compute,
        communication_seconds=moving,
        tensor_seconds=inside,
        step_seconds=step,
        tokens_per_second=tokens / step,
        days=work.steps * step / 86400,
    )


def read_work(path: Path, overrides: Sequence[str], gpus: int) -> tuple[TransformerConfig, Work]:
    """Architecture and work of a recipe; its data need not be there, then sizes must be in the recipe.

    Super-resolution without its data and ``init`` is planned at CogView2's released size.

    Raises:
        CogViewError: not a transformer's recipe, a size is missing, or layers cannot be split so.
    """
    recipe = read_recipe(path, overrides)
    check_tensor(recipe, task_class(recipe.task).parallel, gpus)
    if isinstance(recipe, EnlargingRecipe):
        config, shape = _enlarging(recipe)
    elif isinstance(recipe, TransformerRecipe | CogLMRecipe):
        config, shape = _sequences(recipe)
    else:
        raise CogViewError(f"{path}: plans are for transformers, this recipe trains {recipe.task}")
    work = Work(
        batch=recipe.batch_size * recipe.accumulation,
        steps=recipe.steps,
        recompute=recipe.activation_checkpointing,
        half=recipe.precision != "fp32",
        all_half=recipe.precision == ALL_HALF,
        momentum_only=recipe.optimizer.kind == "muon",
        tensor=recipe.parallel.tensor,
        **shape,
    )
    return config, work


def _sequences(recipe: TransformerRecipe | CogLMRecipe) -> tuple[TransformerConfig, dict[str, Any]]:
    """Configuration, and the fields of Work about sequences, of a transformer or a CogLM.

    Without data the length is the most that its positions leave room for.
    """
    given, task = recipe.model, cast(TransformerTask, task_class(recipe.task)(recipe))
    if recipe.data.exists():
        config, length = task.config(), task.format.max_length
    elif given is None or not (given.vocab_size and given.max_positions):
        raise CogViewError(
            f"{recipe.data} is not there to take sizes from; give them: "
            "--set model.vocab_size=58240 --set model.max_positions=1089"
        )
    else:
        config, length = TransformerConfig.model_validate(given.model_dump()), given.max_positions
        if isinstance(recipe, CogLMRecipe) and recipe.format.image_start:
            length = min(length, recipe.format.text_slots + length - recipe.format.image_start)
    shape: dict[str, Any] = {"length": length}
    if isinstance(recipe, TransformerRecipe):
        if recipe.attention != "causal":
            shape["keys"] = min(length, recipe.attention.span + recipe.attention.pivots)
        if recipe.lora is not None:
            with torch.device("meta"):
                model = Transformer(config)
                whole = _count(model.named_parameters())
                attach(model, recipe.lora)
            shape["trained"] = _count(task.parameters(model, "model")) / whole
    return config, shape


def _enlarging(recipe: EnlargingRecipe) -> tuple[TransformerConfig, dict[str, Any]]:
    """The same of a super-resolution model."""
    task, assumed = cast(EnlargingTask, task_class(recipe.task)(recipe)), ""
    if recipe.data.exists() and recipe.init is not None and recipe.init.exists():
        config, form = task.config(), task.form
    else:
        kind = DirectFormat if isinstance(recipe, DirectRecipe) else IterativeFormat
        names = (
            {"window", "across", "text_slots"} & kind.model_fields.keys() & type(recipe).model_fields.keys()
        )
        form = kind.cogview2().model_copy(update={name: getattr(recipe, name) for name in names})
        config = upscaler_config(TransformerConfig.cogview2_6b(), form)
        assumed = f"{recipe.data} or {recipe.init} is not there: sizes are CogView2's as released"
    length, window, start = form.max_length, form.window[0] * form.window[1], form.max_length - form.codes
    with torch.device("meta"):
        model = Transformer(config)
    trained = _count(task.parameters(model, "model")) / _count(model.named_parameters())
    keys = (form.codes * (window + form.context) + start * start) / length
    rows = form.vocabulary.image_codes * form.codes / length
    return config, {"length": length, "keys": keys, "rows": rows, "trained": trained, "assumed": assumed}


def _count(parameters: Iterable[tuple[str, Any]]) -> int:
    return sum(value.numel() for _, value in parameters)
