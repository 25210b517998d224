"""Diversity of images: within a prompt, across prompts, and of the whole set.

Images are compared by the cosine distance of a network's features. The distance within a prompt is zero for a
model that ignores the seed, the distance across prompts is zero for one that ignores the prompt. The Vendi
score (Friedman and Dieng, 2023) is the effective number of different images: exp of the entropy of the
eigenvalues of the matrix of cosines, 1 for n equal images, n for n orthogonal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import read_rows
from cogview.evaluation.metrics.accuracy import Figure
from cogview.evaluation.metrics.fid import Extractor, SetFacts, describe, set_facts
from cogview.evaluation.metrics.image_sets import ImageSet, Shape
from cogview.evaluation.metrics.intervals import mean_figure
from cogview.evaluation.plans import DiversityPlan
from cogview.evaluation.reports import versions

Progress = Callable[[str, int, int], None]
Array = NDArray[np.float64]


class DiversityReport(Config):
    """The result. Distances are 1 - cosine; within: between images of a prompt, across: between prompts.

    ``within`` is None if no prompt has two images, ``across`` if there is only one prompt.
    """

    format: Literal[1] = 1
    kind: Literal["diversity"] = "diversity"
    plan: DiversityPlan
    extractor: str
    extractor_fingerprint: str
    pictures: SetFacts
    prompts: int
    within: Figure | None
    across: Figure | None
    vendi: float
    versions: dict[str, str]


def evaluate_diversity(
    images: ImageSet,
    extractor: Extractor,
    plan: DiversityPlan,
    work: Path,
    progress: Progress | None = None,
    prompts: Sequence[str] | None = None,
) -> DiversityReport:
    """Measure a set. The prompts of the images come from their metadata unless ``prompts`` is given.

    Raises:
        CogViewError: there are fewer than two images, or one is broken.
    """
    if len(images) < 2:
        raise CogViewError(f"{images.where}: {len(images)} image; diversity needs 2 or more")
    shape = Shape(plan.canvas, extractor.size, resample=plan.resample)
    extracted = describe(images, extractor, shape, work, progress)
    assert extracted is not None
    vectors = normalized(extracted.features)
    if prompts is None:
        prompts = [provenance.prompt for provenance in images.provenances()]
    within, across = distances(vectors, prompts) if prompts else (np.zeros(0), np.zeros(0))
    return DiversityReport(
        plan=plan,
        extractor=extractor.name,
        extractor_fingerprint=extractor.fingerprint,
        pictures=set_facts(images),
        prompts=len(set(prompts)),
        within=mean_figure(within, plan.bootstrap, plan.seed) if len(within) else None,
        across=mean_figure(across, plan.bootstrap, plan.seed) if len(across) else None,
        vendi=vendi(vectors),
        versions=versions(),
    )


def column(place: Path, images: ImageSet, name: str) -> list[str]:
    """The text of each image in the column ``name`` of the corpus at ``place``.

    Raises:
        CogViewError: there is no corpus of Parquet files, or it has no such column.
    """
    texts = {row["key"]: str(row[name] or "") for row in read_rows(place, ("key", name))}
    return [texts[key] for key, _ in images.entries]


def normalized(features: NDArray[np.float32]) -> Array:
    """Features (n, d) scaled to unit norm, float64; zero vectors stay zero."""
    double = features.astype(np.float64)
    norms = np.linalg.norm(double, axis=1, keepdims=True)
    unit: Array = double / np.where(norms > 0, norms, 1)
    return unit


def distances(vectors: Array, prompts: Sequence[str]) -> tuple[Array, Array]:
    """Mean distances: between the images of each prompt; from each image to those of other prompts."""
    names = np.array(prompts)
    within, across = [], []
    for name in dict.fromkeys(prompts):
        same, others = vectors[names == name], vectors[names != name]
        n = len(same)
        if n > 1:  # the sum over all pairs, from the norm of the sum
            total = float((same.sum(0) ** 2).sum()) - float((same**2).sum())
            within.append(1 - total / (n * (n - 1)))
        if len(others):
            across += (1 - same @ others.mean(0)).tolist()
    return np.array(within), np.array(across)


def vendi(vectors: Array) -> float:
    """The Vendi score of unit vectors (n, d); from 1 to n."""
    n, d = vectors.shape
    matrix = vectors @ vectors.T if n <= d else vectors.T @ vectors
    shares = np.clip(np.linalg.eigvalsh(matrix / n), 0, None)
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))
