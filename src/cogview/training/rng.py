"""The random states of Python, NumPy and torch as plain data, for checkpoints and for evaluation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_rank(seed: int, step: int, rank: int) -> None:
    """Give a rank but the first a stream of its own, and the first one too in the middle of a run."""
    if rank or step:
        seed_all(seed_of(seed, step, rank))


def seed_of(*numbers: int) -> int:
    """A seed, the same wherever the same numbers are given."""
    words = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(words[:8], "little") >> 1


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within, all generators draw what these numbers say, on any rank; afterwards they stand as before."""
    with preserved():
        seed_all(seed_of(*numbers))
        yield


def random_states() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The states now: plain JSON for Python and NumPy, uint8 tensors for torch's generators."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    plain = {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return plain, tensors


def restore_random_states(plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`random_states` gave."""
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


@contextmanager
def preserved() -> Iterator[None]:
    """Let the body draw what it likes: afterwards the generators stand where they stood.

    Evaluation and samples run in this, so how often they run does not change the training.
    """
    plain, tensors = random_states()
    try:
        yield
    finally:
        restore_random_states(plain, tensors)
