"""K-means of a codebook, and the files of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cogview.errors import CogViewError
from cogview.tokenizers.clusters import cluster_codebook, kmeans, read_labels


def blobs(count: int = 6, each: int = 30) -> torch.Tensor:
    """Groups far apart, (count * each, 8)."""
    generator = torch.Generator().manual_seed(0)
    centres = 50 * torch.randn(count, 8, generator=generator)
    return (centres[:, None] + torch.randn(count, each, 8, generator=generator)).flatten(0, 1)


def test_groups_that_are_far_apart_are_found() -> None:
    labels = kmeans(blobs(), 6).view(6, 30)
    assert (labels == labels[:, :1]).all() and len(set(labels[:, 0].tolist())) == 6


def test_each_vector_is_with_its_nearest_centre() -> None:
    """The two conditions of Lloyd's fixed point."""
    vectors = torch.randn(300, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = kmeans(vectors, 12)
    centres = torch.stack([vectors[labels == k].mean(0) for k in range(12)])
    assert torch.equal(torch.cdist(vectors, centres).argmin(1), labels)


def test_the_same_codebook_gives_the_same_labels_and_none_is_empty() -> None:
    vectors = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kmeans(vectors, 20), kmeans(vectors, 20))
    assert (kmeans(vectors, 20).bincount(minlength=20) > 0).all()
    assert kmeans(vectors, 60).sort().values.tolist() == list(range(60))
    crowded = torch.cat([torch.zeros(50, 3), vectors[:5]])
    assert (kmeans(crowded, 6).bincount(minlength=6) > 0).all()


def test_labels_as_files(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = cluster_codebook(blobs(), tmp_path / "a.safetensors", 6, lambda *x: told.append(x))
    assert torch.equal(read_labels(tmp_path / "a.safetensors", 180), made) and told
    np.save(tmp_path / "b.npy", made.numpy())
    assert torch.equal(read_labels(tmp_path / "b.npy", 180), made)


def test_wrong_files_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="7 clusters of 3 different codes"):
        kmeans(torch.tensor([[0.0], [1.0], [2.0], [2.0]]), 7)
    with pytest.raises(CogViewError, match="1000000000000 clusters of 180 different codes"):
        cluster_codebook(blobs(), tmp_path / "none.safetensors", 10**12)
    assert len(cluster_codebook(blobs(), tmp_path / "all.safetensors").unique()) == 180  # 500, if there were
    np.save(tmp_path / "short.npy", np.arange(3))
    np.save(tmp_path / "float.npy", np.zeros(4))
    np.save(tmp_path / "large.npy", np.array([0, 1, 2, 9]))
    np.save(tmp_path / "objects.npy", np.array([{}, 1, 2, 3]), allow_pickle=True)
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("short.npy", "float.npy", "large.npy", "objects.npy", "text.safetensors", "none.npy"):
        with pytest.raises(CogViewError, match=name):
            read_labels(tmp_path / name, 4)
