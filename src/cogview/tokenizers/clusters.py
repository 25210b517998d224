"""Clusters of image codes, for cluster sampling (CogView2, section 4.1): K-means of the codebook.

CogView2 groups its 20,000 codes into 500 clusters. Labels are made once and stored with the model
(``clusters.safetensors``), or read from a file someone else made (``.npy``).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cogview.errors import CogViewError
from cogview.files import read_bytes
from cogview.tensors import load_tensors

FILE = "clusters.safetensors"
MAX_BYTES = 64 << 20
COUNT = 500  # of 20,000 codes
ROUNDS = 100


def kmeans(
    vectors: Tensor,
    count: int,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Labels (n,) int64 of vectors (n, d) in ``count`` clusters; none is empty.

    Lloyd's algorithm from k-means++ centres, until nothing moves or for a number of rounds; the same vectors,
    count and seed give the same labels. ``progress`` is called with the rounds done, and the most there will
    be.

    Raises CogViewError where there are fewer different vectors than clusters.
    """
    x = vectors.detach().double().cpu()
    different = len(torch.unique(x, dim=0))
    if not 1 <= count <= different:
        raise CogViewError(f"{count} clusters of {different} different codes: ask for as many at most")
    centres, labels = _spread(x, count, seed), torch.full((len(x),), -1)
    for done in range(rounds):
        distances = _distances(x, centres)
        before, labels = labels, _without_empty(distances)
        if progress is not None:
            progress(done + 1, rounds)
        if torch.equal(before, labels):
            break
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        centres = sums / labels.bincount(minlength=count)[:, None]
    return labels


def _distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (n, count)."""
    return (x.square().sum(1, keepdim=True) - 2 * x @ centres.T + centres.square().sum(1)).clamp_(min=0)


def _spread(x: Tensor, count: int, seed: int) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii): each centre a vector drawn by its distance to the others."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(nearest.multinomial(1, generator=generator)))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]


def _without_empty(distances: Tensor) -> Tensor:
    """The nearest centre of each; a centre without any gets the vector that lies worst in a shared one."""
    labels = distances.argmin(1)
    sizes = labels.bincount(minlength=distances.shape[1])
    for cluster in (sizes == 0).nonzero()[:, 0].tolist():
        own = distances.gather(1, labels[:, None])[:, 0].masked_fill(sizes[labels] < 2, -1)
        moved = int(own.argmax())
        sizes[labels[moved]] -= 1
        labels[moved], sizes[cluster] = cluster, 1
        distances[moved] = torch.inf
        distances[moved, cluster] = 0
    return labels


def write_labels(labels: Tensor, path: Path | str) -> None:
    """Store labels (n,) as safetensors."""
    save_file({"labels": labels.to(torch.int32).contiguous()}, path)


def read_labels(path: Path | str, codes: int) -> Tensor:
    """Labels (codes,) int64 from a ``.safetensors`` or a ``.npy`` file of integers.

    Raises CogViewError for a file that is missing, damaged or made for another codebook.
    """
    try:
        if Path(path).suffix == ".npy":
            data = read_bytes(path, MAX_BYTES)
            if _npy_items(data) > len(data):
                raise ValueError("shorter than it says")
            labels = torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
        else:
            labels = load_tensors(path)["labels"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError) as error:
        raise CogViewError(f"{path}: not a file of cluster labels (.safetensors or .npy)") from error
    if labels.shape != (codes,) or labels.is_floating_point() or labels.is_complex():
        raise CogViewError(f"{path}: labels of shape {tuple(labels.shape)} do not fit {codes} image codes")
    if not 0 <= int(labels.min()) <= int(labels.max()) < codes:
        raise CogViewError(f"{path}: a label is not from 0 to {codes - 1}")
    return labels.long()


def _npy_items(data: bytes) -> int:
    """How many numbers a ``.npy`` says that it holds, without reading them; ValueError."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return math.prod(read(file)[0])


def cluster_codebook(
    vectors: Tensor,
    path: Path | str,
    count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Group a codebook (codes, d), store the labels at ``path`` and return them.

    For those who import or train a tokenizer: the family then names the file (``clusters``). Without a
    ``count`` there are ``COUNT`` clusters, or as many as codes; CogViewError for more than there are codes.
    """
    labels = kmeans(vectors, min(COUNT, len(vectors)) if count is None else count, progress=progress)
    write_labels(labels, path)
    return labels
