"""Random streams: 64 bits for every step of every image, computed by counters, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_keys(pairs: Sequence[tuple[int, int]], steps: int) -> NDArray[np.uint64]:
    """64 random bits (steps, b) for every step of every (seed, index)."""
    seeds, indexes = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    with np.errstate(over="ignore"):
        streams = _mix64(_mix64(seeds + _GOLDEN) ^ indexes)
        counters = np.arange(1, steps + 1, dtype=np.uint64) * _GOLDEN
        return _mix64(streams + counters[:, None])


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood: Fast splittable pseudorandom number generators)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
