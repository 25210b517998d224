"""The resources that training a transformer needs: memory, sharding, tokens per second, days.

The estimates are analytical, not fitted. Per parameter: fp32 weight 4 bytes, gradient 4, Adam's moments 8
(Muon's momentum: 4 on hidden matrices), and 2 more for the half-precision copy; in all-fp16 training (O2)
weight and gradient 2 each, fp32 master 4, moments 8, and 4 for the fp32 gradient of the update. Frozen
parameters only have a weight. Activations of a layer: those that its linear layers, norms and GELU save for
the backward pass (as in Korthikanti et al., 2022), and the attention scores that ``written`` numerics save
(softmax and dropout; fused kernels save none). Compute: 6 FLOPs per parameter and token (4 if frozen),
12 · layers · hidden · keys more for attention, and a third more for recomputation. Communication: a ring
moves 2 bytes per parameter twice (ZeRO-2) or three times (ZeRO-3) per update or, for ZeRO-3, per micro-batch;
it overlaps with the backward pass.

If ``tensor`` neighbours share each layer (``parallel/tensor.py``), a rank holds its part of split parameters
and all others, the activations of its heads and hidden units, and computes the full output projection. Each
layer reduces a micro-batch's states twice in the forward pass, in the precision of the matrices, twice more
if it is recomputed (once under pre-LN), and their gradients twice in the backward pass, in fp32, without
overlap. Once per update the gradients of unsplit parameters are synchronized.
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
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.tasks.upscaling import DirectRecipe, UpscalingRecipe, UpscalingTask
from cogview.transformer.config import TransformerConfig
from cogview.transformer.lora import attach
from cogview.transformer.model import Transformer

GIB = 2**30
RESERVE = 0.08  # fraction of a GPU's memory for the allocator, kernels and communication buffers


class Work(Config):
    """The training to plan: sequences of ``length`` tokens, ``batch`` sequences per update, ``steps``
    updates.

    half, all_half: computed in half precision, by autocast or throughout (O2). tensor: neighbours that share
    each layer. keys: average number of keys that a token sees (None: the full sequence). rows: average number
    of output rows per token (None: all). trained: fraction of the parameters. assumed: note about sizes that
    are not in the recipe.
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
        """Total bytes."""
        return self.states + self.activations


class Plan(Config):
    """The plan for one sharding and micro-batch, which ``tensor`` GPUs process together.

    communication_seconds: of gradients and weights; tensor_seconds: of tensor parallelism, which is not
    overlapped. trained: number of trained parameters; assumed: as in :class:`Work`.
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
        """The plan as text lines."""
        hidden = min(1.0, self.compute_seconds * 2 / 3 / max(self.communication_seconds, 1e-12))
        shared = f", each layer among {self.tensor}" if self.tensor > 1 else ""
        each = "a GPU" if self.tensor == 1 else f"for {self.tensor} GPUs"
        inside = f", {self.tensor_seconds:.2f} s tensor-parallel reductions" if self.tensor > 1 else ""
        trained = f", {self.trained:,} of them trained" if self.trained != self.parameters else ""
        return [
            *([self.assumed] if self.assumed else []),
            f"parameters      {self.parameters:,}{trained}",
            f"sharding        {self.sharding}{shared}, micro-batch {self.micro_batch} {each}, "
            f"{self.accumulation} accumulated, {gpus} GPUs",
            f"memory a GPU    {self.memory.states / GIB:.1f} GiB weights, gradients and optimizer, "
            f"{self.memory.activations / GIB:.1f} GiB activations",
            f"an update       {self.step_seconds:.2f} s: {self.compute_seconds:.2f} s computing{inside}, "
            f"{self.communication_seconds:.2f} s communicating, {hidden:.0%} of it overlapped",
            f"speed           {self.tokens_per_second:,.0f} tokens/s",
            f"whole run       {self.days:.1f} days",
        ]


def parameters(config: TransformerConfig, tensor: int = 1) -> int:
    """The exact number of parameters of one of ``tensor`` neighbours, counted on the meta device."""
    split, common = split_and_common(config)
    return split // tensor + common


@cache
def split_and_common(config: TransformerConfig) -> tuple[int, int]:
    """Numbers of parameters that are split among neighbours, and of those that all of them hold."""
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in Transformer(config).named_parameters()}
    split = sum(size for name, size in sizes.items() if name.endswith(SPLIT))
    return split, sum(sizes.values()) - split


def state_bytes(count: int, work: Work, sharding: Sharding, gpus: int) -> int:
    """Bytes of weights, gradients, optimizer states and the half-precision copy on one GPU.

    count: parameters of a GPU without sharding; gpus: the number of GPUs that shard them.
    """
    moments = 4 if work.momentum_only else 8
    weight = 2 if work.all_half else 4
    updated = (2 + 4 + 4 if work.all_half else 4) + moments  # gradients; in O2 also master, fp32 gradient
    states = weight * count + updated * round(count * work.trained)
    unsharded = {"none": states, "zero2": weight * count, "zero3": 0}[sharding]
    copy = 2 * count if work.half else 0
    if sharding == "zero3":
        copy //= 8  # the layers that are gathered at a time
    elif work.all_half:
        copy = 0  # the fp16 weights themselves are used
    return unsharded + -(-(states - unsharded) // gpus) + copy


def activation_bytes(config: TransformerConfig, work: Work, micro_batch: int) -> int:
    """Bytes of the activations saved for the backward pass of a micro-batch, and of its logits."""
    size = 2 if work.half else 4
    tokens = micro_batch * work.length
    ends = 2 if config.norm == "sandwich" else 0  # inputs of the norms that end the branches
    split = 4 + 2 * config.ffn_multiple  # of a rank's heads and hidden units; outputs of norms are not split
    layer = tokens * config.hidden * ((2 + ends) * work.tensor + split) * size // work.tensor
    layer += score_bytes(config, work, micro_batch)
    stream = tokens * config.hidden * (2 if work.all_half else 4)  # fp32 under autocast
    once, every = layer + stream, (stream if work.recompute else layer + 2 * stream)
    layers = every * config.layers + (once if work.recompute else 0)
    logits = round(tokens * (work.rows or config.vocab_size)) * (size + 4)
    return layers + logits


def score_bytes(config: TransformerConfig, work: Work, micro_batch: int) -> int:
    """Bytes of a layer's scores saved by unfused attention: those after the softmax, and after dropout."""
    if config.numerics == "fused":
        return 0
    size = 2 if work.half else 4
    softmax = size if work.all_half or not work.half else 4 + size  # autocast computes it in fp32
    dropped = (1 + (size if softmax == size else 0)) if config.attention_dropout else 0  # mask and output
    return micro_batch * config.heads * work.length**2 * (softmax + dropped) // work.tensor


def flops_per_token(
    config: TransformerConfig, work: Work, count: int, recompute: bool = False, tensor: int = 1
) -> float:
    """FLOPs of forward and backward pass, of one of ``tensor`` neighbours.

    count: all its parameters; the position table costs no FLOPs, and of a model with a decoder each token
    uses only one of the two attention projections. Gradients flow through all layers, but only to trained
    weights.
    """
    active = count - config.hidden * (config.max_positions + config.extra_positions)
    if config.decoder_from is not None:
        active -= config.layers * 4 * config.hidden**2 // tensor
    if work.rows is not None:
        active -= round(config.hidden * (config.vocab_size - work.rows))
    attention = 4 * config.layers * config.hidden * (work.keys or work.length) / tensor
    recomputed = 1 if recompute else 0
    return 2 * active * (2 + work.trained + recomputed) + attention * (3 + recomputed)


def communication_seconds(
    count: int, work: Work, machine: Machine, sharding: Sharding, accumulation: int
) -> float:
    """Seconds to exchange gradients and weights per update. count: parameters of a GPU without sharding."""
    ranks = machine.gpus // work.tensor
    if ranks == 1:
        return 0.0
    once = (
        work.trained * count * (2 if work.half else 4) * (ranks - 1) / ranks / _speed(machine, machine.gpus)
    )
    return once * (2 + (2 * accumulation - 1 if sharding == "zero3" else 0))


def tensor_seconds(config: TransformerConfig, work: Work, machine: Machine, sharding: Sharding) -> float:
    """Seconds of tensor-parallel reductions per update: of states and gradients in the layers, and of the
    gradients of unsplit parameters."""
    ranks, parts = machine.gpus // work.tensor, work.tensor
    tokens = work.batch * work.length / ranks
    summed = config.layers * tokens * config.hidden * layer_bytes(config, work)
    _, common = split_and_common(config)
    summed += 4 * common / (1 if sharding == "none" else ranks)
    return summed * 2 * (parts - 1) / parts / _speed(machine, parts)


def layer_bytes(config: TransformerConfig, work: Work) -> int:
    """Bytes that a layer reduces per token and hidden unit, forward and backward."""
    recomputed = 1 if config.norm == "pre" else 2  # the output of a pre-LN layer is not recomputed
    return (2 + (recomputed if work.recompute else 0)) * (2 if work.half else 4) + 2 * 4


def _speed(machine: Machine, gpus: int) -> float:
    """Bytes per second that a GPU sends if this number of neighbours communicate."""
    return (machine.local if gpus <= machine.per_node else machine.network) * 1e9


def plan(config: TransformerConfig, work: Work, machine: Machine, sharding: Sharding | None = None) -> Plan:
    """The fastest plan that fits: the least sharding with the largest micro-batch.

    Raises:
        CogViewError: nothing fits (with the memory that one sequence needs with ZeRO-3), or layers or GPUs
            are not divisible by ``work.tensor``.
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
        f"{machine.memory:g}; use more GPUs, shorter sequences or a smaller model"
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
    """Architecture and training of a recipe; without its data, sizes must be in the recipe.

    Super-resolution without its data and ``init`` is planned with CogView2's released size.

    Raises:
        CogViewError: not a transformer's recipe, a size is missing, or layers cannot be split.
    """
    recipe = read_recipe(path, overrides)
    check_tensor(recipe, task_class(recipe.task).parallel, gpus)
    if isinstance(recipe, UpscalingRecipe):
        config, shape = _upscaling(recipe)
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

    Without data the length is the maximum that its positions allow.
    """
    model, task = recipe.model, cast(TransformerTask, task_class(recipe.task)(recipe))
    if recipe.data.exists():
        config, length = task.config(), task.format.max_length
    elif model is None or not (model.vocab_size and model.max_positions):
        raise CogViewError(
            f"{recipe.data} does not exist, so its sizes are unknown; give them: "
            "--set model.vocab_size=58240 --set model.max_positions=1089"
        )
    else:
        config, length = TransformerConfig.model_validate(model.model_dump()), model.max_positions
        if isinstance(recipe, CogLMRecipe) and recipe.format.image_start:
            length = min(length, recipe.format.text_slots + length - recipe.format.image_start)
    shape: dict[str, Any] = {"length": length}
    if isinstance(recipe, TransformerRecipe):
        if recipe.attention != "causal":
            shape["keys"] = min(length, recipe.attention.span + recipe.attention.pivots)
        if recipe.lora is not None:
            with torch.device("meta"):
                transformer = Transformer(config)
                total = _count(transformer.named_parameters())
                attach(transformer, recipe.lora)
            shape["trained"] = _count(task.parameters(transformer, "model")) / total
    return config, shape


def _upscaling(recipe: UpscalingRecipe) -> tuple[TransformerConfig, dict[str, Any]]:
    """Configuration, and the fields of Work about sequences, of a super-resolution model."""
    task, assumed = cast(UpscalingTask, task_class(recipe.task)(recipe)), ""
    if recipe.data.exists() and recipe.init is not None and recipe.init.exists():
        config, format = task.config(), task.format
    else:
        kind = DirectFormat if isinstance(recipe, DirectRecipe) else IterativeFormat
        names = (
            {"window", "across", "text_slots"} & kind.model_fields.keys() & type(recipe).model_fields.keys()
        )
        format = kind.cogview2().model_copy(update={name: getattr(recipe, name) for name in names})
        config = upscaler_config(TransformerConfig.cogview2_6b(), format)
        assumed = f"{recipe.data} or {recipe.init} does not exist: sizes are CogView2's as released"
    length, window = format.max_length, format.window[0] * format.window[1]
    start = length - format.codes
    with torch.device("meta"):
        model = Transformer(config)
    trained = _count(task.parameters(model, "model")) / _count(model.named_parameters())
    keys = (format.codes * (window + format.context) + start * start) / length
    rows = format.vocabulary.image_codes * format.codes / length
    return config, {"length": length, "keys": keys, "rows": rows, "trained": trained, "assumed": assumed}


def _count(parameters: Iterable[tuple[str, Any]]) -> int:
    return sum(value.numel() for _, value in parameters)
