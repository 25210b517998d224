"""How different are images from each other: of one prompt, and altogether.

Images are compared by the cosine distance of a network's features. A model that draws the same for every
seed has no distance within a prompt; one that draws the same for every prompt none across. The Vendi score
(Friedman and Dieng, 2023) is how many different images a set is worth: exp of the entropy of the
eigenvalues of the matrix of cosines, 1 for n equal images, n for n that have nothing in common.
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
    """What was found. Distances are 1 - cosine, within: of two images of a prompt, across: of two prompts.

    None where no prompt has two images, or there is one prompt only.
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
    pictures: ImageSet,
    extractor: Extractor,
    plan: DiversityPlan,
    work: Path,
    progress: Progress | None = None,
    prompts: Sequence[str] | None = None,
) -> DiversityReport:
    """Measure a set; which images are of one prompt is read from what made them, or given.

    Raises:
        CogViewError: fewer than two images, or a broken one.
    """
    if len(pictures) < 2:
        raise CogViewError(f"{pictures.where}: {len(pictures)} picture; diversity needs 2 or more")
    shape = Shape(plan.canvas, extractor.size, resample=plan.resample)
    described = describe(pictures, extractor, shape, work, progress)
    assert described is not None
    vectors = normalized(described.features)
    if prompts is None:
        prompts = [made.prompt for made in pictures.provenances()]
    within, across = distances(vectors, prompts) if prompts else (np.zeros(0), np.zeros(0))
    return DiversityReport(
        plan=plan,
        extractor=extractor.name,
        extractor_fingerprint=extractor.fingerprint,
        pictures=set_facts(pictures),
        prompts=len(set(prompts)),
        within=mean_figure(within, plan.bootstrap, plan.seed) if len(within) else None,
        across=mean_figure(across, plan.bootstrap, plan.seed) if len(across) else None,
        vendi=vendi(vectors),
        versions=versions(),
    )


def column(place: Path, pictures: ImageSet, name: str) -> list[str]:
    """What the column ``name`` of the corpus at ``place`` says of each image.

    Raises:
        CogViewError: no corpus of Parquet files, or without such a column.
    """
    texts = {row["key"]: str(row[name] or "") for row in read_rows(place, ("key", name))}
    return [texts[key] for key, _ in pictures.entries]


def normalized(features: NDArray[np.float32]) -> Array:
    """Features (n, d) at length 1, float64; a vector of zeros stays one."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    found: Array = wide / np.where(length > 0, length, 1)
    return found


def distances(vectors: Array, prompts: Sequence[str]) -> tuple[Array, Array]:
    """Mean distances: of each prompt's images from each other; of each image from other prompts'."""
    names = np.array(prompts)
    within, across = [], []
    for name in dict.fromkeys(prompts):
        own, others = vectors[names == name], vectors[names != name]
        n = len(own)
        if n > 1:  # all pairs at once, by the length of the sum
            total = float((own.sum(0) ** 2).sum()) - float((own**2).sum())
            within.append(1 - total / (n * (n - 1)))
        if len(others):
            across += (1 - own @ others.mean(0)).tolist()
    return np.array(within), np.array(across)


def vendi(vectors: Array) -> float:
    """The Vendi score of vectors (n, d) of length 1; from 1 to n."""
    n, d = vectors.shape
    matrix = vectors @ vectors.T if n <= d else vectors.T @ vectors
    shares = np.clip(np.linalg.eigvalsh(matrix / n), 0, None)
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))
