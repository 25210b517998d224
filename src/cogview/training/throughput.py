"""Training throughput: tokens per second, utilisation, stalls and memory.

Utilisation is the rate of model FLOPs (as in PaLM, appendix B) divided by the rate of a matrix product,
measured on the same device in the same precision: recomputation, padding, norms and the optimizer count as
time, not as work. Stalls are the fraction of a step spent waiting for the loader.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from cogview.transformer.config import TransformerConfig

MEASURED = 0.1  # seconds for which a matrix product is measured
SIDES = {"cpu": 768}  # of the matrices; a GPU needs larger ones


@dataclass(frozen=True)
class BatchCost:
    """The tokens of a batch, without padding, and the floating-point operations of a training step on it."""

    tokens: int = 0
    operations: float = 0.0


class HasBatchCost(Protocol):
    """The part of a task that measures the cost of a batch."""

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost: ...


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = MEASURED) -> float:
    """Floating-point operations per second of a matrix product on this device."""
    side = SIDES.get(device.type, 4096)
    a = torch.full((side, side), 0.01, device=device, dtype=dtype)  # not random: keep the generators' states
    a @ a
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        (a @ a)[0, 0].item()
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - start)


def transformer_cost(config: TransformerConfig, lengths: list[int], heads: float) -> BatchCost:
    """The cost of training on sequences of these lengths. heads: forward FLOPs of the output projection.

    Forward and backward: three times 2 FLOPs per weight and token, and half (for causal attention) of
    4 · hidden · length² per layer.
    """
    tokens = sum(lengths)
    weights = config.layers * (4 + 2 * config.ffn_multiple) * config.hidden**2
    attention = 2.0 * config.layers * config.hidden * sum(length**2 for length in lengths)
    return BatchCost(tokens, 3 * (2.0 * weights * tokens + attention + heads))


class Throughput:
    """Counts a run's FLOPs and waiting time between log lines. split: ranks that share a batch's work."""

    def __init__(
        self, task: HasBatchCost, model: nn.Module, device: torch.device, dtype: torch.dtype, split: int = 1
    ) -> None:
        self.task, self.model, self.device, self.dtype, self.split = task, model, device, dtype, split
        self._rate: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._waited, self._tokens, self._operations = 0.0, 0, 0.0

    def wait(self, batches: Iterator[Any]) -> Any:
        """The next (batch, state); counts its waiting time and its cost."""
        start = time.perf_counter()
        item = next(batches)
        self._waited += time.perf_counter() - start
        cost = self.task.batch_cost(self.model, item[0])
        self._tokens += cost.tokens
        self._operations += cost.operations
        return item

    def line(self, seconds: float) -> dict[str, float]:
        """The log values of the last ``seconds`` of training; resets the counters."""
        seconds, world = max(seconds, 1e-9), _world()
        values = {"stalls": round(self._waited / seconds, 5), "memory": self._memory()}
        if self._tokens:
            values["tokens_per_second"] = round(world / self.split * self._tokens / seconds, 1)
        if self._operations:
            self._rate = self._rate or matrix_rate(self.device, self.dtype)
            values["utilisation"] = round(self._operations / self.split / seconds / self._rate, 4)
        self._clear()
        return values

    def _memory(self) -> int:
        """Peak memory in bytes, of the GPU or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            import resource
            import sys
        except ImportError:  # Windows
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _world() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
