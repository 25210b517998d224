"""How fast a run is against what the machine can do: tokens a second, utilisation, stalls, memory.

Utilisation is the share of a matrix product's rate, measured on the same device and in the same number
format when the run begins, that the model's own work reaches (model FLOPs, as in PaLM, appendix B):
recomputation, padding, norms and the optimizer count as time, not as work. Stalls are the share of a step
spent waiting for the loader.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from cogview.transformer.config import TransformerConfig

MEASURED = 0.1  # seconds a matrix product is measured
SIDES = {"cpu": 768}  # of the matrices; a GPU wants larger ones


@dataclass(frozen=True)
class BatchCost:
    """What a batch asks for: its tokens, padding left out, and the floating-point operations of a step."""

    tokens: int = 0
    operations: float = 0.0


class Worker(Protocol):
    """The part of a task a meter asks."""

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost: ...


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = MEASURED) -> float:
    """Floating-point operations a second of a matrix product here."""
    side = SIDES.get(device.type, 4096)
    a = torch.full((side, side), 0.01, device=device, dtype=dtype)  # drawing them would disturb the training
    a @ a
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        (a @ a)[0, 0].item()
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - began)


def transformer_cost(config: TransformerConfig, lengths: list[int], heads: float) -> BatchCost:
    """The work of learning from sequences of these lengths; heads: operations of all output rows, forward.

    Forward and backward: three times 2 FLOPs a weight and token, and causal attention's half of 4 · hidden ·
    length² a layer.
    """
    tokens = sum(lengths)
    weights = config.layers * (4 + 2 * config.ffn_multiple) * config.hidden**2
    attention = 2.0 * config.layers * config.hidden * sum(length**2 for length in lengths)
    return BatchCost(tokens, 3 * (2.0 * weights * tokens + attention + heads))


class Throughput:
    """Counts a run's work and waiting between log lines. split: ranks that share a batch's work."""

    def __init__(
        self, task: Worker, model: nn.Module, device: torch.device, dtype: torch.dtype, split: int = 1
    ) -> None:
        self.task, self.model, self.device, self.dtype, self.split = task, model, device, dtype, split
        self._rate: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._waited, self._tokens, self._operations = 0.0, 0, 0.0

    def wait(self, batches: Iterator[Any]) -> Any:
        """The next (batch, state), its wait and its work counted."""
        began = time.perf_counter()
        found = next(batches)
        self._waited += time.perf_counter() - began
        work = self.task.batch_cost(self.model, found[0])
        self._tokens += work.tokens
        self._operations += work.operations
        return found

    def line(self, seconds: float) -> dict[str, float]:
        """What a log line says of the last ``seconds`` of training, and an empty count afterwards."""
        seconds, world = max(seconds, 1e-9), _world()
        found = {"stalls": round(self._waited / seconds, 5), "memory": self._memory()}
        if self._tokens:
            found["tokens_per_second"] = round(world / self.split * self._tokens / seconds, 1)
        if self._operations:
            self._rate = self._rate or matrix_rate(self.device, self.dtype)
            found["utilisation"] = round(self._operations / self.split / seconds / self._rate, 4)
        self._clear()
        return found

    def _memory(self) -> int:
        """The most bytes so far: of the GPU, or of this process."""
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
