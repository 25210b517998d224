"""Random states of Python, NumPy and torch as plain data, for checkpoints and evaluation."""

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
    """Seed the generators per rank and step; rank 0 at step 0 keeps the run's seed."""
    if rank or step:
        seed_all(seed_of(seed, step, rank))


def seed_of(*numbers: int) -> int:
    """A deterministic seed from numbers."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """A context with all generators seeded from these numbers, on any rank; restores them on exit."""
    with preserved():
        seed_all(seed_of(*numbers))
        yield


def random_states() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The current states: plain JSON for Python and NumPy, uint8 tensors for torch's generators."""
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
    """Restore the states that :func:`random_states` returned."""
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


@contextmanager
def preserved() -> Iterator[None]:
    """A context that restores the generators on exit.

    Evaluation and sampling run in it, so their frequency does not change the training.
    """
    plain, tensors = random_states()
    try:
        yield
    finally:
        restore_random_states(plain, tensors)
