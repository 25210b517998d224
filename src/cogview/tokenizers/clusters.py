"""Clusters of image codes for cluster sampling (CogView2, section 4.1): k-means on the codebook.

CogView2 groups its 20,000 codes into 500 clusters. Labels are computed once and stored with the model
(``clusters.safetensors``), or read from another file (``.npy``).
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
COUNT = 500  # clusters of 20,000 codes
ROUNDS = 100


def kmeans(
    vectors: Tensor,
    count: int,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Labels (n,) int64 of vectors (n, d) in ``count`` non-empty clusters.

    Lloyd's algorithm from k-means++ centres, until it converges or for ``rounds`` rounds; deterministic for
    the same vectors, count and seed. ``progress`` is called with the number of rounds done and the maximum.

    Raises CogViewError if there are fewer distinct vectors than clusters.
    """
    x = vectors.detach().double().cpu()
    distinct = len(torch.unique(x, dim=0))
    if not 1 <= count <= distinct:
        raise CogViewError(f"{count} clusters of {distinct} different codes: give at most as many")
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
    """k-means++ (Arthur and Vassilvitskii): centres sampled in proportion to their squared distances."""
    generator = torch.Generator().manual_seed(seed)
    centres = [int(torch.randint(len(x), (), generator=generator))]
    nearest = (x - x[centres[0]]).square().sum(1)
    while len(centres) < count:
        centres.append(int(nearest.multinomial(1, generator=generator)))
        nearest = torch.minimum(nearest, (x - x[centres[-1]]).square().sum(1))
    return x[centres]


def _without_empty(distances: Tensor) -> Tensor:
    """The nearest centre of each vector; an empty cluster gets the vector farthest from its shared centre."""
    labels = distances.argmin(1)
    sizes = labels.bincount(minlength=distances.shape[1])
    for cluster in (sizes == 0).nonzero()[:, 0].tolist():
        to_centre = distances.gather(1, labels[:, None])[:, 0].masked_fill(sizes[labels] < 2, -1)
        moved = int(to_centre.argmax())
        sizes[labels[moved]] -= 1
        labels[moved], sizes[cluster] = cluster, 1
        distances[moved] = torch.inf
        distances[moved, cluster] = 0
    return labels


def write_labels(labels: Tensor, path: Path | str) -> None:
    """Store labels (n,) as safetensors."""
    save_file({"labels": labels.to(torch.int32).contiguous()}, path)


def read_labels(path: Path | str, codes: int) -> Tensor:
    """Read labels (codes,) int64 from a ``.safetensors`` or ``.npy`` file of integers.

    Raises CogViewError if the file is missing, damaged or belongs to another codebook.
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
    """The number of elements according to the header of a ``.npy`` file; raises ValueError."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return math.prod(header(file)[0])


def cluster_codebook(
    vectors: Tensor,
    path: Path | str,
    count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Cluster a codebook (codes, d), store the labels at ``path`` and return them.

    For imported or trained tokenizers; the family's configuration names the file (``clusters``). The default
    ``count`` is ``COUNT``, or the number of codes if smaller. Raises CogViewError for more clusters than
    codes.
    """
    labels = kmeans(vectors, min(COUNT, len(vectors)) if count is None else count, progress=progress)
    write_labels(labels, path)
    return labels
