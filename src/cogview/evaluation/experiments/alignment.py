"""Do images and their texts find each other? R-precision and retrieval by the alignment scorer.

R-precision (Xu et al., AttnGAN, 2018): how often an image's own text fits it better than 99 texts of other
images, chosen by a seed. Retrieval: how often the own text is among the k that fit an image best, of all
texts there are, and the other way round. Texts that are word for word the same are right for each of their
images. CogView's Figure 9 ranks by CLIP; the scorer (``scorer.py``) stands in its place.

Every figure has a 95 % bootstrap interval over images and stands between a ceiling, the real images of
the same texts, and a floor, the same images with the texts of others.
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
    """Figures of one set of images with its texts: shares, and the mean ``cosine`` of pairs.

    r_precision: of ``choices`` texts each; text_recall: image to text, by k; picture_recall: the other way.
    """

    pictures: int
    choices: int
    r_precision: Figure
    text_recall: dict[int, Figure]
    picture_recall: dict[int, Figure]
    cosine: Figure


class AlignmentManifest(Config):
    """All that the figures hang on besides the images: equal manifests make them comparable."""

    plan: AlignmentPlan
    scorer: str
    texts: dict[str, str]
    versions: dict[str, str]


class AlignmentReport(Config):
    """What was found, by set: "real zh", "pictogram zh", "pictogram zh, shuffled" and so on."""

    format: Literal[1] = 1
    kind: Literal["alignment"] = "alignment"
    manifest: AlignmentManifest
    sets: dict[str, Alignment]
    facts: dict[str, str | int | float]


def measure(
    seen: Vectors,
    read: Vectors,
    texts: Sequence[str],
    plan: AlignmentPlan,
    order: Sequence[int] | None = None,
) -> Alignment:
    """Figures of images (n, d) and their texts (n, d), vectors of length 1.

    ``order``: image i is asked for text ``order[i]`` instead of its own.

    Raises:
        CogViewError: fewer than two images, or all texts are the same.
    """
    if len(texts) < 2 or len(set(texts)) < 2:
        raise CogViewError("alignment needs two pictures or more, and texts that are not all the same")
    own = list(range(len(texts))) if order is None else list(order)
    asked, wanted = read[own], [texts[i] for i in own]
    fit = seen @ asked.T  # (images, texts)
    right = caption_matches(wanted, [[text] for text in wanted])
    weights = bootstrap_weights(["-"] * len(texts), plan.bootstrap, plan.seed)
    precise, choices = r_precision(fit, right, plan)
    return Alignment(
        pictures=len(texts),
        choices=choices,
        r_precision=_mean(precise, weights),
        text_recall={k: _mean(recall(fit, right, k), weights) for k in RECALLS if k < len(texts)},
        picture_recall={k: _mean(recall(fit.T, right.T, k), weights) for k in RECALLS if k < len(texts)},
        cosine=_mean(np.diagonal(fit).astype(np.float64), weights),
    )


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Figure:
    """The mean of values of images, with its bootstrap interval."""
    return figure(weights @ values / len(values))


def ranks(fit: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row how many wrong columns fit as well as its best right one, or better; (rows,)."""
    best = np.where(right, fit, -np.inf).max(1, keepdims=True)
    found: NDArray[np.int64] = ((fit >= best) & ~right).sum(1)
    return found


def recall(fit: NDArray[np.float64], right: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 for each row with a right column among its k best, else 0."""
    return (ranks(fit, right) < k).astype(np.float64)


def r_precision(
    fit: NDArray[np.float64], right: NDArray[np.bool_], plan: AlignmentPlan
) -> tuple[NDArray[np.float64], int]:
    """1 for each image whose own text fits better than those of others; and how many there were with it.

    An image with fewer wrong texts than ``distractors`` chooses from all of them, and so do all others.
    """
    count = min(plan.distractors, int((~right).sum(1).min()))
    chance = np.random.default_rng(plan.seed)
    own = np.diagonal(fit)
    found = np.zeros(len(fit))
    for row in range(len(fit)):
        others = chance.choice(np.flatnonzero(~right[row]), count, replace=False)
        found[row] = bool((fit[row, others] < own[row]).all())
    return found, count + 1


def shuffled(texts: Sequence[str], seed: int) -> list[int]:
    """Another's text for each image, none its own words: a random cycle over the different texts."""
    different = sorted(set(texts))
    order = np.random.default_rng(seed).permutation(len(different)).tolist()
    following = {different[a]: different[b] for a, b in zip(order, [*order[1:], order[0]], strict=True)}
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    return [first[following[text]] for text in texts]


# ------------------------------------------------------------------------------------------- whole runs


def evaluate_alignment(
    plan: AlignmentPlan,
    data: Captioned,
    scorer: DualEncoder,
    generators: Sequence[ImageGenerator] = (),
    work: Path = Path("runs/alignment"),
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[AlignmentReport, dict[str, NDArray[np.uint8]]] | None:
    """Measure the images of ``data``, and those that ``generators`` draw for its texts, in every language.

    In a language only the images count that have a text in it. Returns the report and all sets' images;
    None while other ranks have images to draw.

    Raises:
        CogViewError: fewer than two images have a text in a language that was asked for.
    """
    plan = plan.model_copy(update={"languages": plan.languages or _languages(data)})
    sets: dict[str, Alignment] = {}
    texts_of, pictures, facts = dict[str, str](), {"real": data.images}, dict[str, str | int | float]()
    seen_all, waiting = scorer.encode_image(data.images), False
    for language in plan.languages:
        rows, texts = _texts(data, language)
        texts_of[language] = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        read, seen_real, other = scorer.encode_text(texts), seen_all[rows], shuffled(texts, plan.seed)
        sets[f"real {language}"] = measure(seen_real, read, texts, plan)
        for generator in generators:
            name = f"{generator.name} {language}"
            drawn = _drawn(plan, texts, generator, scorer, work, rank, name, progress)
            facts[f"{generator.name} fingerprint"] = generator.fingerprint
            if drawn is None:
                waiting = True
                continue
            pictures[name], seen = drawn, scorer.encode_image(drawn)
            sets[name] = measure(seen, read, texts, plan)
            sets[f"{name}, shuffled"] = measure(seen, read, texts, plan, other)
        if not generators:
            sets[f"real {language}, shuffled"] = measure(seen_real, read, texts, plan, other)
    if waiting:
        return None
    facts |= {"data": data.fingerprint, "pictures": len(data)}
    manifest = AlignmentManifest(plan=plan, scorer=scorer.fingerprint, texts=texts_of, versions=versions())
    return AlignmentReport(manifest=manifest, sets=sets, facts=facts), pictures


def _languages(data: Captioned) -> tuple[str, ...]:
    """The languages that two images or more have texts in, Chinese first."""
    counts = Counter(tag for own in data.languages for tag in set(own))
    return tuple(sorted((tag for tag, count in counts.items() if count > 1), reverse=True))


def _texts(data: Captioned, language: str) -> tuple[list[int], list[str]]:
    """The images with a text in a language, and these texts."""
    found = [(row, text) for row, text in enumerate(data.first(language)) if text is not None]
    if len(found) < 2:
        raise CogViewError(
            f"{len(found)} pictures have a caption in {language!r}, 2 are needed; see --languages"
        )
    return [row for row, _ in found], [text for _, text in found]


def _drawn(
    plan: AlignmentPlan,
    texts: Sequence[str],
    generator: ImageGenerator,
    scorer: DualEncoder,
    work: Path,
    rank: tuple[int, int],
    name: str,
    progress: Progress | None,
) -> NDArray[np.uint8] | None:
    """The images of one drawer for all texts, from the work folder where they are there."""
    what = f"drawing {name}"
    paths = generate_images(texts, generator, work, plan, rank, what, progress)
    return None if paths is None else load_all(paths, scorer.config.preprocessing)
