"""What training a transformer would take: memory, sharding, tokens a second, days.

The model is stated, not fitted. Per parameter: fp32 weight 4 bytes, gradient 4, Adam's moments 8 (Muon's
momentum: 4 on hidden matrices), and 2 more for the half-precision copy in use. Activations of a layer: what
its linear layers, norms and GELU keep for the backward pass (Korthikanti et al., 2022, give the account),
without the attention scores, which fused kernels do not keep. Work: 6 FLOPs a
parameter and token, 12 · layers · hidden · length more for attention, a third on top for recomputation.
Communication: a ring moves 2 bytes a parameter twice (ZeRO-2) or three times (ZeRO-3) an update or, for
ZeRO-3, a micro-batch; it overlaps with the backward pass as far as that lasts.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

Sharding = Literal["none", "zero2", "zero3"]
GIB = 2**30
RESERVE = 0.08  # of a GPU's memory, for the allocator, kernels and communication buffers


class Machine(Config):
    """The computers.

    gpus: all of them; per_node: in one machine; memory: GiB each; flops: peak of one, in TFLOP/s, at the
    training precision; utilisation: the share of the peak that matrix products reach in practice; local and
    network: GB/s a GPU sends within a machine and between machines.
    """

    gpus: int = Field(8, ge=1)
    per_node: int = Field(8, ge=1)
    memory: float = Field(80.0, gt=0)
    flops: float = Field(312.0, gt=0)
    utilisation: float = Field(0.45, gt=0, le=1)
    local: float = Field(200.0, gt=0)
    network: float = Field(25.0, gt=0)


class Work(Config):
    """The training: sequences of ``length`` tokens, ``batch`` of them an update, ``steps`` updates."""

    length: int = Field(ge=1)
    batch: int = Field(ge=1)
    steps: int = Field(ge=1)
    recompute: bool = True
    half: bool = True
    momentum_only: bool = False


class Memory(Config):
    """Bytes on one GPU."""

    states: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.activations


class Plan(Config):
    """The plan for one sharding and micro-batch."""

    parameters: int
    sharding: Sharding
    micro_batch: int
    accumulation: int
    memory: Memory
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    tokens_per_second: float
    days: float


def parameters(config: TransformerConfig) -> int:
    """The exact number, counted on the meta device."""
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(config).parameters())


def state_bytes(count: int, work: Work, sharding: Sharding, gpus: int) -> int:
    """Weights, gradients, optimizer and the half-precision copy on one GPU."""
    moments = 4 if work.momentum_only else 8
    whole = {"none": 4 + 4 + moments, "zero2": 4, "zero3": 0}[sharding]
    shared = 4 + 4 + moments - whole
    copy = 2 * count if work.half else 0
    if sharding == "zero3":
        copy //= 8  # the layers that are gathered at one time
    return whole * count + -(-shared * count // gpus) + copy


def activation_bytes(config: TransformerConfig, work: Work, micro_batch: int) -> int:
    """What the backward pass needs of a micro-batch, and the logits of its loss."""
    size = 2 if work.half else 4
    tokens = micro_batch * work.length
    ends = 2 if config.norm == "sandwich" else 0  # what enters the norms that end the branches
    layer = tokens * config.hidden * (6 + 2 * config.ffn_multiple + ends) * size
    stream = tokens * config.hidden * 4  # the residual stream stays fp32 under autocast
    once, every = layer + stream, (stream if work.recompute else layer + 2 * stream)
    layers = every * config.layers + (once if work.recompute else 0)
    logits = tokens * config.vocab_size * (size + 4)
    return layers + logits


def flops_per_token(config: TransformerConfig, length: int, count: int, recompute: bool = False) -> float:
    """Forward and backward; ``count``: all parameters, of which the position table does no work."""
    working = count - config.hidden * (config.max_positions + config.extra_positions)
    forward = 2 * working + 4 * config.layers * config.hidden * length
    return forward * (4 if recompute else 3)


def communication_seconds(
    count: int, work: Work, machine: Machine, sharding: Sharding, accumulation: int
) -> float:
    """Moving gradients and weights once an update."""
    if machine.gpus == 1:
        return 0.0
    speed = machine.local if machine.gpus <= machine.per_node else machine.network
    once = count * (2 if work.half else 4) * (machine.gpus - 1) / machine.gpus / (speed * 1e9)
    return once * (2 + (2 * accumulation - 1 if sharding == "zero3" else 0))


def plan(config: TransformerConfig, work: Work, machine: Machine, sharding: Sharding | None = None) -> Plan:
    """The fastest plan that fits: the least sharding, the largest micro-batch.

    Raises:
        CogViewError: nothing fits; says how much one sequence needs with ZeRO-3.
    """
    count = parameters(config)
    kinds: tuple[Sharding, ...] = (sharding,) if sharding else ("none", "zero2", "zero3")
    share = -(-work.batch // machine.gpus)
    for kind in kinds:
        states = state_bytes(count, work, kind, machine.gpus)
        for micro in _sizes(share):
            memory = Memory(states=states, activations=activation_bytes(config, work, micro))
            if memory.total <= machine.memory * GIB * (1 - RESERVE):
                return _timed(config, work, machine, kind, micro, count, memory)
    needed = (state_bytes(count, work, kinds[-1], machine.gpus) + activation_bytes(config, work, 1)) / GIB
    raise CogViewError(
        f"one sequence on {machine.gpus} GPUs needs {needed / (1 - RESERVE):.1f} GiB each, there are "
        f"{machine.memory:g}; take more GPUs, shorter sequences or a smaller model"
    )


def _sizes(share: int) -> list[int]:
    """Micro-batches to try, largest first: powers of two up to a GPU's share of the batch, at most 64."""
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
    accumulation = -(-work.batch // (machine.gpus * micro))
    tokens = work.batch * work.length
    needed = tokens * flops_per_token(config, work.length, count, work.recompute)
    compute = needed / (machine.gpus * machine.flops * 1e12 * machine.utilisation)
    moving = communication_seconds(count, work, machine, sharding, accumulation)
    backward = compute * 2 / 3
    step = compute + max(0.0, moving - backward)
    return Plan(
        parameters=count,
        sharding=sharding,
        micro_batch=micro,
        accumulation=accumulation,
        memory=memory,
        compute_seconds=compute,
        communication_seconds=moving,
        step_seconds=step,
        tokens_per_second=tokens / step,
        days=work.steps * step / 86400,
    )
