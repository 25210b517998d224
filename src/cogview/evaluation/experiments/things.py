"""Does an image show the thing whose bare name is its prompt? And does it copy a training drawing?

Images are generated for the names that people type for everyday things (``prompts/things.jsonl``), in each
language; the reader of things classifies them. *First* and *five* are its top-1 and top-5 accuracy. The
ceiling is the reader's accuracy on held-out drawings, the floor the accuracy against the prompts of other
images. Intervals resample things, because the names of a thing are not independent.

Copying is measured in the reader's feature space against drawings of the training set. The scale is the
distances between two drawings of one thing in different styles: an image is *nearer* if its distance to the
nearest drawing is below their median, *much nearer* if it is below their 5th percentile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogview.config import Config
from cogview.data.image_cache import ImageCache
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges.drawing_labels import read_labels
from cogview.evaluation.judges.thing_reader import ThingReader, in_top_k
from cogview.evaluation.metrics.accuracy import Figure, Share, bootstrap_weights, figure
from cogview.evaluation.plans import Language, ThingsPlan
from cogview.evaluation.prompts import ThingNames, thing_names
from cogview.evaluation.sample_store import (
    WHOLE,
    ImageGenerator,
    Progress,
    generate_images,
    load_all,
    report_facts,
)

Array = NDArray[np.float64]
CEILINGS = {"first": 0.75, "five": 0.9}  # minimum accuracy of a reader on held-out drawings


class Reading(Config):
    """Accuracy of the images of one language. ``…_of_ceiling`` are relative to the reader's own accuracy."""

    images: int
    first: Figure
    five: Figure
    first_of_ceiling: Figure | None = None
    five_of_ceiling: Figure | None = None
    floor: float


class Copying(Config):
    """Shares of images nearer to a training drawing than ``threshold`` and ``much`` (cosine distances)."""

    threshold: float
    much: float
    nearer: Figure
    much_nearer: Figure
    drawings: int


class ThingsReport(Config):
    """The results of one run.

    counts: the reader is accurate enough; difference: top-1 accuracy of the first language minus that of the
    second.
    """

    format: Literal[1] = 1
    plan: ThingsPlan
    counts: bool
    ceiling: dict[str, float]
    readings: dict[str, Reading]
    difference: Figure | None = None
    by_thing: dict[str, Share]
    copying: Copying | None = None
    facts: dict[str, str | int | float]


def thing_prompts(things: Sequence[ThingNames], language: Language, count: int) -> list[tuple[str, str]]:
    """``count`` pairs of a thing and a name: every thing's first name, then its second, …, cyclically."""
    most = max(len(names.prompts(language)) for names in things)
    pairs = [
        (names.thing, names.prompts(language)[i])
        for i in range(most)
        for names in things
        if i < len(names.prompts(language))
    ]
    return [pairs[i % len(pairs)] for i in range(count)]


def evaluate_things(
    plan: ThingsPlan,
    reader: ThingReader,
    generator: ImageGenerator,
    work: Path,
    drawings: Path | None = None,
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[ThingsReport, dict[str, list[Path]]] | None:
    """Generate, classify and score; the report and each language's images, or None while ranks are missing.

    drawings: a labelled image cache of training drawings, to measure copying.

    Raises:
        CogViewError: the reader knows none of the things, or files cannot be read or written.
    """
    classes = {name: i for i, name in enumerate(reader.config.things)}
    things = [names for names in thing_names() if names.thing in classes]
    if not things:
        raise CogViewError("the reader of things knows none of the things in the prompts")
    prompts = {language: thing_prompts(things, language, plan.count) for language in plan.languages}
    images: dict[str, list[Path]] = {}
    for language, pairs in prompts.items():
        texts, what = [text for _, text in pairs], f"generating {language}"
        paths = generate_images(texts, generator, work, plan, rank, what, progress)
        images |= {} if paths is None else {language: paths}
    if len(images) < len(prompts):
        return None
    features, right, readings, guesses = [], {}, {}, {}
    ceiling = ceilings(reader)
    for language, pairs in prompts.items():
        pixels = load_all(images[language], Preprocessing(size=reader.config.size, resample="box"))
        vectors, probabilities = reader.read(pixels, progress=_labelled(progress, f"reading {language}"))
        targets = np.array([classes[thing] for thing, _ in pairs])
        right[language] = {
            name: in_top_k(probabilities, targets, k) for name, k in (("first", 1), ("five", 5))
        }
        guesses[language] = probabilities.argmax(1)
        features.append(vectors)
        readings[language] = _reading(plan, targets, right[language], guesses[language], ceiling)
    report = ThingsReport(
        plan=plan,
        counts=all(ceiling.get(name, 0) >= least for name, least in CEILINGS.items()),
        ceiling=ceiling,
        readings=readings,
        difference=_difference(plan, prompts, right),
        by_thing=_by_thing(prompts, right),
        copying=copying(reader, np.concatenate(features), drawings, plan, progress) if drawings else None,
        facts=report_facts(generator, reader_fingerprint=reader.fingerprint),
    )
    return report, images


def ceilings(reader: ThingReader) -> dict[str, float]:
    """The reader's accuracy on held-out drawings, measured at the end of its training."""
    facts = reader.config.facts
    return {name: float(facts[f"ceiling_{name}"]) for name in CEILINGS if f"ceiling_{name}" in facts}


def _labelled(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


# ------------------------------------------------------------------------------------------- figures


def clustered(hits: NDArray[np.bool_], clusters: NDArray[np.int64], times: int, seed: int) -> Array:
    """The share of hits (n,), then its bootstrap samples with resampled clusters; (times + 1,)."""
    kinds, index = np.unique(clusters, return_inverse=True)
    weights = bootstrap_weights(["-"] * len(kinds), times, seed)
    right = np.bincount(index, hits.astype(float), len(kinds))
    total = np.bincount(index, minlength=len(kinds))
    shares: Array = (weights @ right) / (weights @ total)
    return shares


def floor(guesses: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
    """The top-1 accuracy of every image against the prompts of all other images."""
    counts = np.bincount(guesses, minlength=int(max(guesses.max(), targets.max())) + 1)
    others = counts[targets] - (guesses == targets)
    return float(others.mean() / (len(targets) - 1))


def _reading(
    plan: ThingsPlan,
    targets: NDArray[np.int64],
    right: dict[str, NDArray[np.bool_]],
    guesses: NDArray[np.int64],
    ceiling: dict[str, float],
) -> Reading:
    samples = {name: clustered(hits, targets, plan.bootstrap, plan.seed) for name, hits in right.items()}
    shares = {f"{name}_of_ceiling": figure(samples[name] / best) for name, best in ceiling.items() if best}
    figures = {name: figure(values) for name, values in samples.items()}
    return Reading(images=len(targets), floor=floor(guesses, targets), **figures, **shares)


def _difference(
    plan: ThingsPlan,
    prompts: dict[Language, list[tuple[str, str]]],
    right: dict[Language, dict[str, NDArray[np.bool_]]],
) -> Figure | None:
    """Top-1 accuracy of the first language minus that of the second, with the same resampled things."""
    if len(prompts) != 2:
        return None
    names = sorted({thing for pairs in prompts.values() for thing, _ in pairs})
    numbers = {name: i for i, name in enumerate(names)}
    weights, shares = bootstrap_weights(["-"] * len(names), plan.bootstrap, plan.seed), []
    for language, pairs in prompts.items():
        index = np.array([numbers[thing] for thing, _ in pairs])
        hits = np.bincount(index, right[language]["first"].astype(float), len(names))
        shares.append((weights @ hits) / (weights @ np.bincount(index, minlength=len(names))))
    return figure(shares[0] - shares[1])


def _by_thing(
    prompts: dict[Language, list[tuple[str, str]]], right: dict[Language, dict[str, NDArray[np.bool_]]]
) -> dict[str, Share]:
    counts: dict[str, list[int]] = {}
    for language, pairs in prompts.items():
        for (thing, _), hit in zip(pairs, right[language]["first"], strict=True):
            count = counts.setdefault(thing, [0, 0])
            count[0] += int(hit)
            count[1] += 1
    return {name: Share(right=hits, stated=total) for name, (hits, total) in sorted(counts.items())}


# ------------------------------------------------------------------------------------------- copying


def normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to unit norm."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), dtype=np.float32)


def style_distances(features: NDArray[np.float32], things: Sequence[str]) -> Array:
    """The cosine distances of all pairs of drawings (unit rows) of the same thing."""
    names, distances = np.array(things), []
    for thing in dict.fromkeys(things):
        drawings = features[names == thing]
        above = np.triu_indices(len(drawings), 1)
        distances.append((1 - drawings @ drawings.T)[above])
    return np.concatenate(distances).astype(np.float64)


def nearest_distances(images: NDArray[np.float32], drawings: NDArray[np.float32]) -> Array:
    """The cosine distance of each image to its nearest drawing; unit rows."""
    return np.array([1 - float((drawings @ image).max()) for image in images], dtype=np.float64)


def copying(
    reader: ThingReader,
    features: NDArray[np.float32],
    directory: Path,
    plan: ThingsPlan,
    progress: Progress | None = None,
) -> Copying:
    """How often images are nearer to a training drawing than two styles of a thing are to each other.

    Only the first variant of each drawing is used: images of split "train" whose key ends in ``#0``.
    """
    cache = ImageCache(directory)
    labels = read_labels(cache)
    items = [item for item in cache.select(["train"]).tolist() if cache.keys[item].endswith("#0")]
    things = [labels[item].things[0].thing for item in items]
    if len(set(things)) == len(things):
        raise CogViewError(f"{directory}: no thing has two training drawings, so styles cannot be compared")
    vectors, _ = reader.read(
        [cache.pixels[item] for item in items], progress=_labelled(progress, "reading drawings")
    )
    drawings = normalized(vectors)
    between, nearest = style_distances(drawings, things), nearest_distances(normalized(features), drawings)
    threshold, much = (float(np.percentile(between, q)) for q in (50, 5))
    clusters = np.arange(len(nearest))
    hits = [nearest < limit for limit in (threshold, much)]
    shares = [figure(clustered(nearer, clusters, plan.bootstrap, plan.seed)) for nearer in hits]
    return Copying(
        threshold=threshold, much=much, nearer=shares[0], much_nearer=shares[1], drawings=len(items)
    )
