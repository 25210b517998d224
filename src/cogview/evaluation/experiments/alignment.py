"""Alignment of images and texts: R-precision and retrieval by the alignment scorer.

R-precision (Xu et al., AttnGAN, 2018): how often an image's own text has a higher score than 99 randomly
chosen texts of other images. Retrieval: how often the own text is among the k best of all texts for an image,
and vice versa. Identical texts are right for each of their images. CogView's figure 9 ranks by CLIP; the
scorer (``scorer.py``) takes its place.

Every figure has a 95 % bootstrap interval over images. The ceiling is the real images of the same texts, the
floor the same images with shuffled texts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.evaluation.judges.captioned import Captioned
from cogview.evaluation.judges.scorer import DualEncoder, Vectors
from cogview.evaluation.judges.scorer_training import caption_matches
from cogview.evaluation.metrics.accuracy import Figure, bootstrap_weights, figure
from cogview.evaluation.plans import AlignmentPlan
from cogview.evaluation.reports import versions
from cogview.evaluation.sample_store import WHOLE, ImageGenerator, generate_images, load_all

Progress = Callable[[str, int, int], None]
RECALLS = (1, 5, 10)


class Alignment(Config):
    """The figures of one set of images with its texts: shares, and the mean ``cosine`` of pairs.

    r_precision: with ``choices`` texts per image; text_recall: recall at k of image-to-text retrieval;
    picture_recall: of text-to-image retrieval.
    """

    pictures: int
    choices: int
    r_precision: Figure
    text_recall: dict[int, Figure]
    picture_recall: dict[int, Figure]
    cosine: Figure


class AlignmentManifest(Config):
    """Everything that determines the figures apart from the images: equal manifests make them comparable."""

    plan: AlignmentPlan
    scorer: str
    texts: dict[str, str]
    versions: dict[str, str]


class AlignmentReport(Config):
    """The results, by set: "real zh", "pictogram zh", "pictogram zh, shuffled" and so on."""

    format: Literal[1] = 1
    kind: Literal["alignment"] = "alignment"
    manifest: AlignmentManifest
    sets: dict[str, Alignment]
    facts: dict[str, str | int | float]


def measure(
    image_vectors: Vectors,
    text_vectors: Vectors,
    texts: Sequence[str],
    plan: AlignmentPlan,
    order: Sequence[int] | None = None,
) -> Alignment:
    """The figures of images (n, d) and their texts (n, d), unit vectors.

    ``order``: image i is paired with text ``order[i]`` instead of its own.

    Raises:
        CogViewError: there are fewer than two images, or all texts are the same.
    """
    if len(texts) < 2 or len(set(texts)) < 2:
        raise CogViewError("alignment needs two images or more, and texts that are not all the same")
    rows = list(range(len(texts))) if order is None else list(order)
    paired_vectors, paired = text_vectors[rows], [texts[i] for i in rows]
    scores = image_vectors @ paired_vectors.T  # (images, texts)
    right = caption_matches(paired, [[text] for text in paired])
    weights = bootstrap_weights(["-"] * len(texts), plan.bootstrap, plan.seed)
    precise, choices = r_precision(scores, right, plan)
    return Alignment(
        pictures=len(texts),
        choices=choices,
        r_precision=_mean(precise, weights),
        text_recall={k: _mean(recall(scores, right, k), weights) for k in RECALLS if k < len(texts)},
        picture_recall={k: _mean(recall(scores.T, right.T, k), weights) for k in RECALLS if k < len(texts)},
        cosine=_mean(np.diagonal(scores).astype(np.float64), weights),
    )


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Figure:
    """The mean of per-image values, with its bootstrap interval."""
    return figure(weights @ values / len(values))


def ranks(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row the number of wrong columns that score at least as high as its best right one; (rows,)."""
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    counts: NDArray[np.int64] = ((scores >= best) & ~right).sum(1)
    return counts


def recall(scores: NDArray[np.float64], right: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 for each row with a right column among its k best, else 0."""
    return (ranks(scores, right) < k).astype(np.float64)


def r_precision(
    scores: NDArray[np.float64], right: NDArray[np.bool_], plan: AlignmentPlan
) -> tuple[NDArray[np.float64], int]:
    """1 for each image whose own text has a higher score than the distractors, else 0; the number of choices.

    All images have the same number of distractors: ``plan.distractors``, or the smallest number of wrong
    texts.
    """
    count = min(plan.distractors, int((~right).sum(1).min()))
    rng = np.random.default_rng(plan.seed)
    own = np.diagonal(scores)
    precise = np.zeros(len(scores))
    for row in range(len(scores)):
        others = rng.choice(np.flatnonzero(~right[row]), count, replace=False)
        precise[row] = bool((scores[row, others] < own[row]).all())
    return precise, count + 1


def shuffled(texts: Sequence[str], seed: int) -> list[int]:
    """The index of another text for each image, never an identical one: a random cycle over unique texts."""
    unique = sorted(set(texts))
    order = np.random.default_rng(seed).permutation(len(unique)).tolist()
    successor = {unique[a]: unique[b] for a, b in zip(order, [*order[1:], order[0]], strict=True)}
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    return [first[successor[text]] for text in texts]


# ------------------------------------------------------------------------------------------- full runs


def evaluate_alignment(
    plan: AlignmentPlan,
    data: Captioned,
    scorer: DualEncoder,
    generators: Sequence[ImageGenerator] = (),
    work: Path = Path("runs/alignment"),
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[AlignmentReport, dict[str, NDArray[np.uint8]]] | None:
    """Measure the images of ``data`` and those that ``generators`` generate for its texts, in every language.

    A language includes only images that have a text in it. Returns the report and the images of all sets, or
    None while images of other ranks are missing.

    Raises:
        CogViewError: fewer than two images have a text in one of the languages.
    """
    plan = plan.model_copy(update={"languages": plan.languages or _languages(data)})
    sets: dict[str, Alignment] = {}
    text_hashes, images, facts = dict[str, str](), {"real": data.images}, dict[str, str | int | float]()
    real_vectors, incomplete = scorer.encode_image(data.images), False
    for language in plan.languages:
        rows, texts = _texts(data, language)
        text_hashes[language] = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        text_vectors, real, other = scorer.encode_text(texts), real_vectors[rows], shuffled(texts, plan.seed)
        sets[f"real {language}"] = measure(real, text_vectors, texts, plan)
        for generator in generators:
            name = f"{generator.name} {language}"
            generated = _generated(plan, texts, generator, scorer, work, rank, name, progress)
            facts[f"{generator.name} fingerprint"] = generator.fingerprint
            if generated is None:
                incomplete = True
                continue
            images[name], vectors = generated, scorer.encode_image(generated)
            sets[name] = measure(vectors, text_vectors, texts, plan)
            sets[f"{name}, shuffled"] = measure(vectors, text_vectors, texts, plan, other)
        if not generators:
            sets[f"real {language}, shuffled"] = measure(real, text_vectors, texts, plan, other)
    if incomplete:
        return None
    facts |= {"data": data.fingerprint, "pictures": len(data)}
    manifest = AlignmentManifest(plan=plan, scorer=scorer.fingerprint, texts=text_hashes, versions=versions())
    return AlignmentReport(manifest=manifest, sets=sets, facts=facts), images


def _languages(data: Captioned) -> tuple[str, ...]:
    """The languages in which at least two images have texts, Chinese first."""
    counts = Counter(tag for tags in data.languages for tag in set(tags))
    return tuple(sorted((tag for tag, count in counts.items() if count > 1), reverse=True))


def _texts(data: Captioned, language: str) -> tuple[list[int], list[str]]:
    """The rows of the images with a text in a language, and these texts."""
    pairs = [(row, text) for row, text in enumerate(data.first(language)) if text is not None]
    if len(pairs) < 2:
        raise CogViewError(
            f"{len(pairs)} images have a caption in {language!r}, 2 are needed; see --languages"
        )
    return [row for row, _ in pairs], [text for _, text in pairs]


def _generated(
    plan: AlignmentPlan,
    texts: Sequence[str],
    generator: ImageGenerator,
    scorer: DualEncoder,
    work: Path,
    rank: tuple[int, int],
    name: str,
    progress: Progress | None,
) -> NDArray[np.uint8] | None:
    """A generator's images of all texts, loaded from the work folder where they exist."""
    what = f"generating {name}"
    paths = generate_images(texts, generator, work, plan, rank, what, progress)
    return None if paths is None else load_all(paths, scorer.config.preprocessing)
