"""How much memory there is, how much a batch takes, and what happens when it runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from cogview.errors import OutOfMemory, ran_out
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

BATCH = {"cpu": 16, "cuda": 64}  # more is hardly faster, and later to show its first image
SHARE = 0.8  # of the free memory, the rest is for what is not counted
UNKNOWN = 1 << 30  # taken as free where the system does not say


@dataclass(frozen=True)
class Plan:
    """How a number of pictures (or texts) is drawn in the memory there is.

    weights: bytes the model takes already; cache, work: bytes one picture takes, for what attention reads and
    for the rest; free: bytes there are; batch: pictures at a time.
    """

    weights: int
    cache: int
    work: int
    free: int
    batch: int

    def __str__(self) -> str:
        each = f"{_size(self.cache + self.work)} each ({_size(self.cache)} of it cache)"
        return (
            f"memory: weights {_size(self.weights)}, {_size(self.free)} free; {self.batch} at a time, {each}"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_system(), _container())


def _system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN


def _container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the control group leaves; a container's limit does not show in /proc/meminfo."""
    try:
        limit, used = ((root / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        return 1 << 62


def bytes_per_row(config: TransformerConfig, length: int, logits: int, dtype: torch.dtype) -> int:
    """Bytes that one sequence of ``length`` tokens takes: its cache, and its share of the widest step."""
    hidden = config.hidden * (4 + 2 * config.ffn_multiple)
    return KVCache.size_in_bytes(config, 1, length, dtype) + 4 * hidden + 40 * logits


def rows_that_fit(free: int, per_row: int) -> int:
    """How many sequences fit into ``free`` bytes; at least one, which is tried in any case."""
    return max(1, int(free * SHARE) // per_row)


def halving(
    items: Sequence[T], size: int, run: Callable[[Sequence[T], int], R], device: torch.device, advice: str
) -> Iterator[tuple[Sequence[T], R]]:
    """Batches of at most ``size`` items with what ``run`` makes of each; half as many after memory ran out.

    ``run`` gets the batch and the size. OutOfMemory with ``advice`` where not even one item fits.
    """
    first = 0
    while first < len(items):
        batch = items[first : first + size]
        try:
            made = run(batch, size)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            size = min(size, len(batch))
            if size == 1:
                raise OutOfMemory(f"out of memory on {device} with one at a time", advice) from error
            half = (size + 1) // 2
            log.warning("out of memory with %d at a time; going on with %d", size, half)
            size = half
        else:
            first += len(batch)
            yield batch, made
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
