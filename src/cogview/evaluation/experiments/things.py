"""Does an image show the thing that was asked for by its bare name? And does it copy a training drawing?

For every everyday thing and language the wordings that people type (``prompts/things.jsonl``) are generated;
the reader of things names each image. *First* and *five*: its first guess, and any of its first five, is the
thing. The ceiling is the reader's own accuracy on withheld drawings, the floor the accuracy of the images of
other prompts. Intervals are of resampled things, since the wordings of a thing are not independent.

Copying is measured in the reader's feature space against drawings of the training set: an image is *nearer*
than two drawings of one thing in different styles where its distance to the nearest drawing is less than
their median distance, *much nearer* where it is less than their 5th percentile.
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
CEILINGS = {"first": 0.75, "five": 0.9}  # what a reader must reach on withheld drawings to count


class Reading(Config):
    """Accuracy of the images of one language. ``…_of_ceiling`` are shares of the reader's own accuracy."""

    images: int
    first: Figure
    five: Figure
    first_of_ceiling: Figure | None = None
    five_of_ceiling: Figure | None = None
    floor: float


class Copying(Config):
    """Shares of images nearer to a training drawing than ``threshold`` and ``much``, cosine distances."""

    threshold: float
    much: float
    nearer: Figure
    much_nearer: Figure
    drawings: int


class ThingsReport(Config):
    """Everything one run found. ``difference``: first guesses, first language less second."""

    format: Literal[1] = 1
    plan: ThingsPlan
    counts: bool
    ceiling: dict[str, float]
    readings: dict[str, Reading]
    difference: Figure | None = None
    by_thing: dict[str, Share]
    copying: Copying | None = None
    facts: dict[str, str | int | float]


def asked(things: Sequence[ThingNames], language: Language, count: int) -> list[tuple[str, str]]:
    """``count`` pairs of a thing and a wording: every thing's first, then every thing's second, …, again."""
    most = max(len(own.prompts(language)) for own in things)
    every = [
        (own.thing, own.prompts(language)[place])
        for place in range(most)
        for own in things
        if place < len(own.prompts(language))
    ]
    return [every[i % len(every)] for i in range(count)]


def evaluate_things(
    plan: ThingsPlan,
    reader: ThingReader,
    generator: ImageGenerator,
    work: Path,
    drawings: Path | None = None,
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[ThingsReport, dict[str, list[Path]]] | None:
    """Generate, read and score; the report and each language's images. None while other ranks have work.

    drawings: a labelled image cache of training drawings, for the measure of copying.

    Raises:
        CogViewError: the reader knows none of the things, or files cannot be read or written.
    """
    number = {name: i for i, name in enumerate(reader.config.things)}
    things = [own for own in thing_names() if own.thing in number]
    if not things:
        raise CogViewError("the reader of things knows none of the things that are asked for")
    prompts = {language: asked(things, language, plan.count) for language in plan.languages}
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
        own, probabilities = reader.read(pixels, progress=_told(progress, f"reading {language}"))
        wanted = np.array([number[thing] for thing, _ in pairs])
        right[language] = {
            word: in_top_k(probabilities, wanted, k) for word, k in (("first", 1), ("five", 5))
        }
        guesses[language] = probabilities.argmax(1)
        features.append(own)
        readings[language] = _reading(plan, wanted, right[language], guesses[language], ceiling)
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
    """The reader's accuracy on withheld drawings, as its training measured it."""
    facts = reader.config.facts
    return {name: float(facts[f"ceiling_{name}"]) for name in CEILINGS if f"ceiling_{name}" in facts}


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


# ------------------------------------------------------------------------------------------- figures


def clustered(hits: NDArray[np.bool_], owners: NDArray[np.int64], times: int, seed: int) -> Array:
    """The share of hits (n,), then those of ``times`` sets of resampled owners; (times + 1,)."""
    kinds, place = np.unique(owners, return_inverse=True)
    weights = bootstrap_weights(["-"] * len(kinds), times, seed)
    right = np.bincount(place, hits.astype(float), len(kinds))
    total = np.bincount(place, minlength=len(kinds))
    found: Array = (weights @ right) / (weights @ total)
    return found


def floor(guesses: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """The accuracy at first guess where every prompt is asked of the images of all other prompts."""
    counts = np.bincount(guesses, minlength=int(max(guesses.max(), wanted.max())) + 1)
    others = counts[wanted] - (guesses == wanted)
    return float(others.mean() / (len(wanted) - 1))


def _reading(
    plan: ThingsPlan,
    wanted: NDArray[np.int64],
    right: dict[str, NDArray[np.bool_]],
    guesses: NDArray[np.int64],
    ceiling: dict[str, float],
) -> Reading:
    samples = {name: clustered(hits, wanted, plan.bootstrap, plan.seed) for name, hits in right.items()}
    shares = {f"{name}_of_ceiling": figure(samples[name] / best) for name, best in ceiling.items() if best}
    figures = {name: figure(own) for name, own in samples.items()}
    return Reading(images=len(wanted), floor=floor(guesses, wanted), **figures, **shares)


def _difference(
    plan: ThingsPlan,
    prompts: dict[Language, list[tuple[str, str]]],
    right: dict[Language, dict[str, NDArray[np.bool_]]],
) -> Figure | None:
    """First guesses of the first language less those of the second, the same things resampled in both."""
    if len(prompts) != 2:
        return None
    names = sorted({thing for pairs in prompts.values() for thing, _ in pairs})
    numbers = {name: i for i, name in enumerate(names)}
    weights, shares = bootstrap_weights(["-"] * len(names), plan.bootstrap, plan.seed), []
    for language, pairs in prompts.items():
        place = np.array([numbers[thing] for thing, _ in pairs])
        hits = np.bincount(place, right[language]["first"].astype(float), len(names))
        shares.append((weights @ hits) / (weights @ np.bincount(place, minlength=len(names))))
    return figure(shares[0] - shares[1])


def _by_thing(
    prompts: dict[Language, list[tuple[str, str]]], right: dict[Language, dict[str, NDArray[np.bool_]]]
) -> dict[str, Share]:
    counts: dict[str, list[int]] = {}
    for language, pairs in prompts.items():
        for (thing, _), hit in zip(pairs, right[language]["first"], strict=True):
            own = counts.setdefault(thing, [0, 0])
            own[0] += int(hit)
            own[1] += 1
    return {name: Share(right=own[0], stated=own[1]) for name, own in sorted(counts.items())}


# ------------------------------------------------------------------------------------------- copying


def normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)


def style_distances(features: NDArray[np.float32], things: Sequence[str]) -> Array:
    """The cosine distances of all pairs of drawings (rows of length one) of the same thing."""
    names, found = np.array(things), []
    for thing in dict.fromkeys(things):
        own = features[names == thing]
        above = np.triu_indices(len(own), 1)
        found.append((1 - own @ own.T)[above])
    return np.concatenate(found).astype(np.float64)


def nearest_distances(images: NDArray[np.float32], drawings: NDArray[np.float32]) -> Array:
    """The cosine distance of each image to its nearest drawing; rows of length one."""
    return np.array([1 - float((drawings @ image).max()) for image in images], dtype=np.float64)


def copying(
    reader: ThingReader,
    features: NDArray[np.float32],
    directory: Path,
    plan: ThingsPlan,
    progress: Progress | None = None,
) -> Copying:
    """How often images lie nearer to a training drawing than two styles of a thing to each other.

    Of every drawing its first variant is taken: images of split "train" whose key ends in ``#0``.
    """
    cache = ImageCache(directory)
    labels = read_labels(cache)
    items = [item for item in cache.select(["train"]).tolist() if cache.keys[item].endswith("#0")]
    things = [labels[item].things[0].thing for item in items]
    if len(set(things)) == len(things):
        raise CogViewError(f"{directory}: no thing has two training drawings, so styles cannot be compared")
    found, _ = reader.read(
        [cache.pixels[item] for item in items], progress=_told(progress, "reading drawings")
    )
    known = normalized(found)
    between, nearest = style_distances(known, things), nearest_distances(normalized(features), known)
    threshold, much = (float(np.percentile(between, q)) for q in (50, 5))
    owners = np.arange(len(nearest))
    hits = [nearest < most for most in (threshold, much)]
    shares = [figure(clustered(own, owners, plan.bootstrap, plan.seed)) for own in hits]
    return Copying(
        threshold=threshold, much=much, nearer=shares[0], much_nearer=shares[1], drawings=len(items)
    )
